"""Exports a zoo of torchvision classifiers, for trying what an importer makes of them.

    python zoo.py OUTDIR [MODEL ...]        only these models, beside what OUTDIR has already

Every model has random, seeded weights and batch statistics that are far from the identity. Every model goes through both
PyTorch exporters, in opsets 13, 17 and the newest that the exporter knows; what the exporter refuses is in the index, too.
Every file that comes out is compared with PyTorch in ONNX Runtime, on other images than the exporter saw.

OUTDIR/index.csv       one line for each try: model,exporter,opset,dynamic_batch,file,status,file_opset,max_rel
OUTDIR/operators.txt   the operators of all files, with the opsets that they occur in
"""

import argparse
import csv
import io
import logging
import re
import warnings
import zlib
from collections import defaultdict
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import onnx
import onnxruntime
import torch
import torchvision.models as tv
from torch import nn
from torch.nn import functional as F

TOLERANCE = 1e-4  # of the largest logit
TORCHSCRIPT_OPSETS = (13, 17, torch.onnx._constants.ONNX_TORCHSCRIPT_EXPORTER_MAX_OPSET)
# 18 is the lowest that the exporter has natively; above its documented maximum it converts, and ONNX Runtime 1.30 ends at 26.
DYNAMO_OPSETS = (13, 17, 18, torch.onnx._constants.ONNX_MAX_OPSET, 26)
COLUMNS = ["model", "exporter", "opset", "dynamic_batch", "file", "status", "file_opset", "max_rel"]
DYNAMIC = ("resnet18_cifar", "vit_b_16")


def resnet18_cifar():
    """ResNet18 for 32x32 images: a 3x3 stem with stride 1 and no max-pooling."""
    model = tv.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def vgg16_cifar(make):
    """VGG16 for 32x32 images: after five poolings one pixel is left, and one linear layer classifies it."""
    model = make(num_classes=10)
    model.avgpool = nn.Identity()
    model.classifier = nn.Linear(512, 10)
    return model


# name: (constructor, image size)
MODELS = {
    "resnet18_cifar": (resnet18_cifar, 32),
    "vgg16_cifar": (lambda: vgg16_cifar(tv.vgg16), 32),
    "vgg16_bn_cifar": (lambda: vgg16_cifar(tv.vgg16_bn), 32),
    "mobilenet_v3_large": (tv.mobilenet_v3_large, 224),
    "vit_b_16": (tv.vit_b_16, 224),
    "resnet18_imagenet": (tv.resnet18, 224),
    "efficientnet_b0": (tv.efficientnet_b0, 224),
    "convnext_tiny": (tv.convnext_tiny, 224),
    "densenet121": (tv.densenet121, 224),
    "vgg16_imagenet": (tv.vgg16, 224),
    "vgg16_bn_imagenet": (tv.vgg16_bn, 224),
}


def pictures(count, size):
    """Random images [N, 3, size, size] that differ: of plain noise, all images look the same to a deep network."""
    images = torch.randn(count, 3, 1, 1) + 0.3 * torch.randn(count, 3, size, size)
    for side in (3, 8, 24):
        images += F.interpolate(torch.randn(count, 3, side, side), size, mode="bilinear")
    return images


def build(name):
    """The model in eval mode with its image size. Weights that start as 0 or 1 everywhere are moved, so that no layer is the identity."""
    constructor, size = MODELS[name]
    torch.manual_seed(zlib.crc32(name.encode()))
    model = constructor()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.endswith("layer_scale"):
                p.uniform_(0.1, 0.5)
            elif bool((p == p.flatten()[0]).all()):
                p.add_(torch.randn_like(p), alpha=0.02 if p.dim() == 2 else 0.1)
        model.eval()
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.train().momentum = 1.0
        if norms:
            model(pictures(8, size))
        for norm in norms:
            norm.eval().momentum = 0.1
            norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.6)
    return model, size


def tries(name, model):
    """The (exporter, opset, dynamic batch) that are asked for. Both exporters fold batch normalisation away unless told to keep it."""
    yield from (("torchscript", opset, False) for opset in TORCHSCRIPT_OPSETS)
    yield from (("dynamo", opset, False) for opset in DYNAMO_OPSETS)
    if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        yield from (("torchscript-keep-bn", opset, False) for opset in TORCHSCRIPT_OPSETS)
        yield from (("dynamo-keep-bn", opset, False) for opset in DYNAMO_OPSETS if opset >= 18)
    if name in DYNAMIC:
        yield from (("torchscript", opset, True) for opset in TORCHSCRIPT_OPSETS)
        yield from (("dynamo", opset, True) for opset in DYNAMO_OPSETS)


def export(model, image, path, exporter, opset, dynamic):
    common = dict(opset_version=opset, input_names=["images"], output_names=["logits"])
    keep_bn = exporter.endswith("-keep-bn")
    if exporter.startswith("dynamo"):
        shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
        example = image.repeat(2, 1, 1, 1) if dynamic else image  # a batch of 1 would be taken for a constant
        torch.onnx.export(model, (example,), path, dynamo=True, dynamic_shapes=shapes, optimize=not keep_bn, **common)
        return
    keep = dict(training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False) if keep_bn else {}
    axes = {"images": {0: "batch"}, "logits": {0: "batch"}} if dynamic else None
    torch.onnx.export(model, (image,), path, dynamo=False, dynamic_axes=axes, **keep, **common)


def one_line(text):
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m", "", str(text))).strip()[:300]


def attempt(model, size, path, exporter, opset, dynamic):
    """Exports and compares: (status, opset that the file declares, largest difference relative to the largest logit)."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger().addHandler(handler)
    try:
        with redirect_stdout(said), redirect_stderr(said):
            export(model, pictures(1, size), path, exporter, opset, dynamic)
    except Exception as error:  # whatever the exporter raises is its refusal
        return f"refused: {type(error).__name__}: {one_line(error)}", "", ""
    finally:
        logging.getLogger().removeHandler(handler)
    file = onnx.load(path, load_external_data=False)
    declared = next(entry.version for entry in file.opset_import if entry.domain in ("", "ai.onnx"))
    if declared != opset:
        path.unlink()
        Path(f"{path}.data").unlink(missing_ok=True)
        reasons = re.findall(r"^\w*Error: .*", said.getvalue(), re.MULTILINE)
        return f"refused: wrote opset {declared} instead: {one_line(reasons[-1] if reasons else '')}", declared, ""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = pictures(3 if dynamic else 1, size)
    with torch.no_grad():
        expected = model(images)
    actual = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    rel = float((expected - actual).abs().max() / expected.abs().max())
    same = bool((expected.argmax(1) == actual.argmax(1)).all())
    return ("ok" if rel <= TOLERANCE and same else "differs from PyTorch"), declared, f"{rel:.2e}"


def nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from nodes(inner)


def write_operators(out):
    """Operators of every file of the folder: domain and name, opsets, files that have one, and attributes that are set."""
    opsets, files, attributes = defaultdict(set), defaultdict(set), defaultdict(set)
    for path in sorted(out.glob("*.onnx")):
        model = onnx.load(path, load_external_data=False)
        versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
        for graph in [model.graph, *model.functions]:
            for node in nodes(graph):
                domain = node.domain or "ai.onnx"
                key = f"{domain}:{node.op_type}"
                opsets[key].add(versions.get(domain, 0))
                files[key].add(path.name)
                attributes[key].update(a.name for a in node.attribute)
    with open(out / "operators.txt", "w") as text:
        for key in sorted(opsets):
            versions = ",".join(map(str, sorted(opsets[key])))
            text.write(f"{key}\topsets {versions}\t{len(files[key])} files\t{' '.join(sorted(attributes[key]))}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUTDIR")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"only these: {' '.join(MODELS)}")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    names = arguments.models or list(MODELS)
    kept = []
    if (out / "index.csv").exists():
        with open(out / "index.csv", newline="") as file:
            kept = [row for row in csv.reader(file) if row[0] not in (*names, COLUMNS[0])]
    with open(out / "index.csv", "w", newline="") as file:
        index = csv.writer(file)
        index.writerows([COLUMNS, *kept])
        for name in names:
            model, size = build(name)
            for exporter, opset, dynamic in tries(name, model):
                path = out / f"{name}-{exporter}-{opset}{'-dynamic' if dynamic else ''}.onnx"
                status, declared, rel = attempt(model, size, path, exporter, opset, dynamic)
                row = [name, exporter, opset, str(dynamic).lower(), path.name if path.exists() else "", status, declared, rel]
                index.writerow(row)
                file.flush()
                print(*row, flush=True)
    write_operators(out)


if __name__ == "__main__":
    main()
