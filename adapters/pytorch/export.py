"""Trains a small classifier in PyTorch, makes it unlearn some of its training images, and hands it over as an auditor would get it.

    python export.py --data DIR --out DIR [--small]

DIR has {train,test}/<class>/*.png, 32x32 RGB. Half of the training images of five classes are to be forgotten, by two methods:
GA, gradient ascent on them, and RT, training again without them. Written:

OUT/ga.onnx            after gradient ascent
OUT/rt.onnx            after retraining
OUT/adapter.yaml       how both read images, and what their outputs mean
OUT/forget/<class>/    the images that were to be forgotten
OUT/probe/<class>/     the test split
OUT/manifest.json      versions, settings, accuracies, SHA-256

The original model is not written: an auditor never sees it.
"""

import argparse
import copy
import hashlib
import importlib.metadata
import json
import logging
import math
import platform
import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

SCALE, MEAN, STD = 1 / 255, [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
ADAPTER = """\
# (byte * scale - mean) / std, channel by channel
input:
  channels: 3
  height: 32
  width: 32
  scale: {scale}
  mean: {mean}
  std: {std}
# in the order of the model's outputs
classes: [{classes}]
output: logits
"""


class Block(nn.Module):
    """Two 3x3 convolutions and a way around them, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        around = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + around)


class ResNet8(nn.Module):
    """Three blocks of 16, 32 and 64 channels: about 78,000 parameters."""

    def __init__(self, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = Block(16, 16, 1)
        self.layer2 = Block(16, 32, 2)
        self.layer3 = Block(32, 64, 2)
        self.fc = nn.Linear(64, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Images:
    """A list of image files, normalised [N, 3, 32, 32], with labels [N]."""

    def __init__(self, paths, labels):
        self.paths = paths
        self.labels = torch.tensor(labels)
        stored = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        self.images = (torch.from_numpy(stored).permute(0, 3, 1, 2).float() * SCALE - mean) / std

    def take(self, indices):
        part = copy.copy(self)
        part.paths = [self.paths[i] for i in indices]
        part.images, part.labels = self.images[indices], self.labels[indices]
        return part


def read(folder, classes, per_class):
    paths = [(path, k) for k, name in enumerate(classes) for path in sorted((folder / name).glob("*.png"))[:per_class]]
    return Images([path for path, _ in paths], [k for _, k in paths])


def augmented(images):
    """Each image mirrored or not, and moved by up to two pixels."""
    images = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
    padded = F.pad(images, (2, 2, 2, 2), mode="reflect")
    moves = torch.randint(0, 5, (len(images), 2)).tolist()
    height, width = images.shape[2:]
    return torch.stack([image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, moves)])


def accuracy(model, data):
    """Top-1 in percent, in eval mode."""
    model.eval()
    with torch.no_grad():
        hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in zip(data.images.split(256), data.labels.split(256)))
    return 100 * hits / len(data.labels)


def train(data, classes, settings, seed):
    """A fresh model, trained until it knows `settings.train_accuracy` percent of its images, but for `settings.epochs` at least."""
    torch.manual_seed(seed)
    model = ResNet8(classes)
    for extra in range(4):  # a schedule that was too short is followed by another one
        optimiser = torch.optim.SGD(model.parameters(), settings.lr / 2**extra, momentum=0.9, weight_decay=5e-4, nesterov=True)
        steps = settings.epochs * math.ceil(len(data.labels) / settings.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.lr / 2**extra, total_steps=steps)
        for _ in range(settings.epochs):
            model.train()
            for batch in torch.randperm(len(data.labels)).split(settings.batch):
                loss = F.cross_entropy(model(augmented(data.images[batch])), data.labels[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        reached = accuracy(model, data)
        print(f"trained on {len(data.labels)} images: {reached:.1f} % of them known", flush=True)
        if reached >= settings.train_accuracy:
            return model
    raise SystemExit(f"only {reached:.1f} % of the training images are known: raise --epochs")


def gradient_ascent(model, forget, retain, settings, seed):
    """
    Steps up the loss of the images to forget. Of all states on the way, the last before the accuracy on the retained images has
    fallen by more than `settings.retain_loss` points: nothing but the retained images decides how far it goes. Running statistics
    stay as they are, because batches of forget images alone would replace everybody's by theirs.
    """
    torch.manual_seed(seed)
    model = copy.deepcopy(model)
    floor = accuracy(model, retain) - settings.retain_loss
    optimiser = torch.optim.SGD(model.parameters(), settings.ascent_lr)
    kept, steps = copy.deepcopy(model), 0
    while True:
        for batch in torch.randperm(len(forget.labels)).split(settings.ascent_batch):
            loss = -F.cross_entropy(model(forget.images[batch]), forget.labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if steps == settings.ascent_steps or accuracy(model, retain) < floor:
                return kept, steps
            kept, steps = copy.deepcopy(model), steps + 1
    return kept, steps


def export(model, path, data):
    """
    Writes a model with its batch normalisation: by default the exporter folds it into the convolutions, and what is folded
    cannot be trained as it was. Any batch size. Returns how far ONNX Runtime's logits are from PyTorch's.
    """
    model = model.eval()
    example = data.images[:2]  # an example batch of 1 would be taken for a constant
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(
        model, (example,), path, input_names=["images"], output_names=["logits"], dynamic_shapes=shapes,
        dynamo=True, optimize=False, external_data=False, verbose=False,
    )
    strip_traces(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = model(data.images)
    actual = [session.run(None, {"images": x.numpy()})[0] for x in data.images.split(64)]
    return float((expected - torch.from_numpy(np.concatenate(actual))).abs().max())


def strip_traces(path):
    """Takes out the notes that the exporter writes beside every node and value, which are stack traces with this machine's paths."""
    file = onnx.load(path)
    graph = file.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(file, path)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def folder_sha256(folder):
    """SHA-256 of one line `<sha256>  <path in folder>` for each file, in order of path (as `sha256sum` prints them)."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256("".join(f"{sha256(folder / name)}  {name}\n" for name in files).encode()).hexdigest()


def copy_images(data, classes, folder):
    shutil.rmtree(folder, ignore_errors=True)
    for path, label in zip(data.paths, data.labels.tolist()):
        target = folder / classes[label]
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / path.name)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with {train,test}/<class>/*.png")
    parser.add_argument("--out", type=Path, required=True, help="where everything is written")
    parser.add_argument("--small", action="store_true", help="60 training and 40 test images a class, enough for a regression fixture")
    parser.add_argument("--train-per-class", type=int, help="the first N training images of each class (default: all)")
    parser.add_argument("--probe-per-class", type=int, help="the first N test images of each class (default: all)")
    parser.add_argument("--forget", nargs="+", metavar="CLASS", help="classes to forget images of (default: the first five)")
    parser.add_argument("--forget-share", type=float, default=0.5, help="share of their training images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=120, help="epochs of training (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=0.1, help="highest learning rate of training (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="images a step of training (default: %(default)s)")
    parser.add_argument("--train-accuracy", type=float, default=99, help="percent of the training images to be known (default: %(default)s)")
    parser.add_argument("--retain-loss", type=float, default=10, help="points of accuracy that GA may cost on retained images (default: %(default)s)")
    parser.add_argument("--ascent-lr", type=float, default=2e-4, help="learning rate of GA (default: %(default)s)")
    parser.add_argument("--ascent-batch", type=int, default=64, help="images a step of GA (default: %(default)s)")
    parser.add_argument("--ascent-steps", type=int, default=500, help="most steps of GA (default: %(default)s)")
    settings = parser.parse_args()
    if settings.small:
        settings.train_per_class = settings.train_per_class or 60
        settings.probe_per_class = settings.probe_per_class or 40
    return settings


def main():
    settings = arguments()
    torch.set_num_threads(1)  # more threads would add in another order, and the same seed give other weights
    torch.use_deterministic_algorithms(True)
    warnings.simplefilter("ignore")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)

    classes = sorted(folder.name for folder in (settings.data / "train").iterdir() if folder.is_dir())
    forgetting = settings.forget or classes[:5]
    if unknown := set(forgetting) - set(classes):
        raise SystemExit(f"no such class: {', '.join(sorted(unknown))}")
    everything = read(settings.data / "train", classes, settings.train_per_class)
    probe = read(settings.data / "test", classes, settings.probe_per_class)
    chooser, chosen = random.Random(settings.seed), set()
    for name in forgetting:
        own = (everything.labels == classes.index(name)).nonzero().flatten().tolist()
        chosen.update(chooser.sample(own, round(settings.forget_share * len(own))))
    forget = everything.take(sorted(chosen))
    retain = everything.take([i for i in range(len(everything.labels)) if i not in chosen])

    original = train(everything, len(classes), settings, settings.seed)
    ga, steps = gradient_ascent(original, forget, retain, settings, settings.seed + 1)
    rt = train(retain, len(classes), settings, settings.seed + 2)

    settings.out.mkdir(parents=True, exist_ok=True)
    copy_images(forget, classes, settings.out / "forget")
    copy_images(probe, classes, settings.out / "probe")
    adapter = ADAPTER.format(scale=SCALE, mean=MEAN, std=STD, classes=", ".join(classes))
    (settings.out / "adapter.yaml").write_text(adapter)
    differences = {
        "ga.onnx": export(ga, settings.out / "ga.onnx", probe),
        "rt.onnx": export(rt, settings.out / "rt.onnx", probe),
    }
    manifest = {
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")},
        "settings": {key: value for key, value in vars(settings).items() if key not in ("data", "out")},
        "forgetting_classes": forgetting,
        "images": {"train": len(everything.labels), "forget": len(forget.labels), "retain": len(retain.labels), "probe": len(probe.labels)},
        "ascent_steps": steps,
        "accuracy": {
            who: {name: round(accuracy(model, data), 2) for name, data in (("forget", forget), ("retain", retain), ("probe", probe))}
            for who, model in (("original", original), ("ga", ga), ("rt", rt))
        },
        "onnxruntime_difference": differences,
        "sha256": {name: sha256(settings.out / name) for name in ("ga.onnx", "rt.onnx", "adapter.yaml")}
        | {name: folder_sha256(settings.out / name) for name in ("forget", "probe")},
    }
    (settings.out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(json.dumps(manifest["accuracy"], indent=2))


if __name__ == "__main__":
    main()
