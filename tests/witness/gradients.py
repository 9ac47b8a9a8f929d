"""Makes the reference losses and gradients that `cmira` is compared with: PyTorch autograd, in float64, of two classifiers.

    python gradients.py            writes small_cnn.onnx, small_cnn.json and resnet18.json beside itself
    python gradients.py --check    makes them again and fails where the stored values differ

README.md beside this file gives the formulas that make weights and images, and how to compare.
"""

import argparse
import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

HERE = Path(__file__).parent
BATCH, CLASSES = 8, 10
BIAS_STEP = 2.0**-13


def fnv1a(name):
    """32-bit FNV-1a of the UTF-8 bytes."""
    h = 2166136261
    for byte in name.encode():
        h = (h ^ byte) * 16777619 % 2**32
    return h


def noise(name, count):
    """`count` integers in [-2**23, 2**23), each exact in float32: entry i is a mix of i and the name's hash."""
    x = np.arange(1, count + 1, dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(fnv1a(name))
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    x = x ^ (x >> np.uint32(16))
    return (x >> np.uint32(8)).astype(np.int32) - 2**23


def spread(name, shape, bound):
    """float32 values, uniform in [-bound, bound): one multiplication, by bound / 2**23 rounded to float32."""
    count = math.prod(shape)
    return (noise(name, count).astype(np.float32) * np.float32(bound / 2**23)).reshape(shape)


def fill(name, shape):
    """The value of a parameter or buffer, by its name and shape."""
    if len(shape) > 1:
        return spread(name, shape, math.sqrt(6.0 / math.prod(shape[1:])))
    if name.endswith(".weight"):
        return np.float32(1.0) + spread(name, shape, 0.5)
    if name.endswith(".running_var"):
        return np.float32(2.0) + spread(name, shape, 1.0)
    return spread(name, shape, 0.2)


def filled(model, biases):
    """Fills a model: by formula, and `biases` (in steps of BIAS_STEP) where they are given."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name in biases:
                value.copy_(torch.tensor(biases[name], dtype=torch.float32) * BIAS_STEP)
            elif value.is_floating_point():
                value.copy_(torch.from_numpy(fill(name, tuple(value.shape))))
    return model


def images():
    return torch.from_numpy(spread("images", (BATCH, 3, 32, 32), 2.0))


def labels():
    return torch.tensor([(7 * n + 3) % CLASSES for n in range(BATCH)])


class SmallCnn(nn.Module):
    """conv-bn-relu-pool, conv-bn-relu, strided depth-wise conv with bias, global pool, linear."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16)
        self.fc = nn.Linear(16, CLASSES)
        self.relu = nn.ReLU()

    def forward(self, x):
        x = F.max_pool2d(self.relu(self.bn1(self.conv1(x))), 2)
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.relu(self.conv3(x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def resnet18():
    """torchvision's ResNet18 in its form for 32x32 images: a 3x3 stem with stride 1 and no max-pooling."""
    model = torchvision.models.resnet18(num_classes=CLASSES)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


class Reached(Exception):
    """Ends a forward pass early."""


def relu_input(model, train, number):
    """The input [N, C, H, W] of the `number`-th ReLU that a forward pass comes to."""
    seen = []

    def look(_, inputs):
        seen.append(inputs[0])
        if len(seen) > number:
            raise Reached

    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_pre_hook(look)
    try:
        with torch.no_grad():
            model.double().train(train)(images().double())
    except Reached:
        pass
    return seen[number]


def away_from_kinks(make, relus):
    """
    Biases, in steps of BIAS_STEP, that keep every ReLU's inputs away from 0 in both modes, and the smallest distance left.

    A unit whose input is closer to 0 than float32's rounding is on in one implementation and off in another. In a ResNet18 a
    few of millions always are, and each moves some gradient by a part in a hundred or a thousand: as much as an error would.
    """
    biases, margin = {}, math.inf
    for number, name in enumerate(relus):
        start = fill(name, tuple(make().state_dict()[name].shape)) / BIAS_STEP
        biases[name] = np.rint(start).astype(int).tolist()
        both = [relu_input(filled(make(), biases), train, number) for train in (True, False)]
        values = torch.cat([z.transpose(0, 1).flatten(1) for z in both], 1).sort(1).values.numpy()
        for channel, z in enumerate(values):
            shifts = np.arange(-400, 401)
            right = np.searchsorted(z, -shifts * BIAS_STEP)
            distances = [np.abs(z[np.clip(i, 0, len(z) - 1)] + shifts * BIAS_STEP) for i in (right - 1, right)]
            distance = np.minimum(*distances)
            best = int(distance.argmax())
            biases[name][channel] += int(shifts[best])
            margin = min(margin, float(distance[best]))
    return biases, margin


def run(fresh, train, dtype):
    """One forward and backward pass from fresh weights: loss, logits, gradients, and running statistics afterwards."""
    model = fresh().to(dtype).train(train)
    logits = model(images().to(dtype))
    loss = F.cross_entropy(logits, labels())
    loss.backward()
    gradients = {name: p.grad.double() for name, p in model.named_parameters()}
    buffers = {name: b for name, b in model.named_buffers() if b.is_floating_point()}
    return loss.item(), logits.detach(), gradients, buffers


def summary(name, tensor, samples):
    """What is stored of a tensor: all of it where it has at most `samples` entries, else that many, spread over it by formula."""
    flat = tensor.double().flatten()
    count = flat.numel()
    if count <= samples:
        indices = range(count)
    else:
        indices = sorted({int(i) for i in (noise(f"samples {name}", samples) + 2**23) % count})
    projection = float(flat @ torch.from_numpy(spread(f"projection {name}", (count,), 1.0)).double())
    return {
        "shape": list(tensor.shape),
        "norm": float(flat.norm()),
        "sum": float(flat.sum()),
        "max_abs": float(flat.abs().max()),
        "projection": projection,
        "samples": [[i, float(flat[i])] for i in indices],
    }


def expected(make, relus, samples):
    """The stored document: values in float64, and how far PyTorch's own float32 is from them."""
    biases, margin = away_from_kinks(make, relus)
    fresh = lambda: filled(make(), biases)  # noqa: E731
    document = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "dtype": "float64 arithmetic on float32 weights and images",
        "batch": BATCH,
        "labels": labels().tolist(),
        "smallest_relu_input": margin,
        "bias_step": BIAS_STEP,
        "biases": biases,
        "modes": {},
    }
    for mode, train in (("train", True), ("eval", False)):
        loss, logits, gradients, buffers = run(fresh, train, torch.float64)
        loss32, _, gradients32, _ = run(fresh, train, torch.float32)
        errors = {n: float((gradients32[n] - g).norm() / g.norm()) for n, g in gradients.items()}
        worst = max(errors, key=errors.get)
        document["modes"][mode] = {
            "loss": loss,
            "float32": {"loss_error": abs(loss32 / loss - 1), "gradient_error": errors[worst], "parameter": worst},
            "logits": logits.tolist(),
            "gradients": {name: summary(name, g, samples) for name, g in gradients.items()},
        }
        if train:
            document["running_after_train"] = {name: summary(name, b, samples) for name, b in buffers.items()}
    return document


def encode(value, depth=0):
    """JSON with 12 significant digits, one line for each parameter."""
    if isinstance(value, dict) and depth < 4 and any(isinstance(v, (dict, list)) for v in value.values()) and "norm" not in value:
        lines = [f"{' ' * depth}{json.dumps(key)}: {encode(v, depth + 1)}" for key, v in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + " " * max(depth - 1, 0) + "}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {encode(v, depth + 1)}" for key, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(encode(v, depth + 1) for v in value) + "]"
    return f"{value:.12g}" if isinstance(value, float) else json.dumps(value)


def differences(path, old, new):
    """Places where two documents differ by more than what another processor's rounding explains."""
    if isinstance(new, dict):
        if set(old) != set(new):
            yield f"{path}: other keys"
            return
        for key in new:
            if key != "float32":
                yield from differences(f"{path}/{key}", old[key], new[key])
    elif isinstance(new, list):
        if len(old) != len(new):
            yield f"{path}: other length"
            return
        for i, (a, b) in enumerate(zip(old, new)):
            yield from differences(f"{path}/{i}", a, b)
    # A stored float without a fraction is read back as an integer.
    elif isinstance(new, (int, float)) and not isinstance(new, bool) and float in (type(new), type(old)):
        if abs(old - new) > 1e-8 * max(abs(old), abs(new), 1e-3):
            yield f"{path}: stored {old}, made {new}"
    elif old != new:
        yield f"{path}: stored {old}, made {new}"


def export(model):
    """Writes the small model with its batch normalisation kept and any batch size."""
    torch.onnx.export(
        model.eval(), (images(),), HERE / "small_cnn.onnx", dynamo=False, opset_version=17,
        input_names=["images"], output_names=["logits"], dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
        training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
    )


SMALL_RELUS = ["bn1.bias", "bn2.bias", "conv3.bias"]
RESNET_RELUS = ["bn1.bias"] + [f"layer{i}.{j}.bn{k}.bias" for i in (1, 2, 3, 4) for j in (0, 1) for k in (1, 2)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the stored values instead of writing them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    np.seterr(over="ignore")
    warnings.simplefilter("ignore")
    failed = False
    for name, make, relus, samples in (("small_cnn", SmallCnn, SMALL_RELUS, 2**20), ("resnet18", resnet18, RESNET_RELUS, 12)):
        document = expected(make, relus, samples)
        print(name, "smallest ReLU input", document["smallest_relu_input"])
        for mode, values in document["modes"].items():
            print(name, mode, "loss", values["loss"], "float32", values["float32"])
        path = HERE / f"{name}.json"
        if arguments.check:
            found = list(differences(name, json.loads(path.read_text()), json.loads(encode(document))))
            print("\n".join(found[:20]))
            failed = failed or bool(found)
        else:
            path.write_text(encode(document) + "\n")
            if make is SmallCnn:
                export(filled(make(), document["biases"]))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
