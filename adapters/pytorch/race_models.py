"""Exports the networks that speeds are compared on, as the most users of PyTorch would: TorchScript's exporter, opset 13, batch
normalisation kept as it is, any batch size.

    python race_models.py OUTDIR [NAME ...]

OUTDIR/resnet18.onnx   ResNet18 for 32x32 images
OUTDIR/small.onnx      the ResNet8 of the demonstration
OUTDIR/vgg16.onnx      VGG16 with batch normalisation for 32x32 images, where it is named
"""

import sys
from pathlib import Path

import torch

from export import ResNet8
from zoo import resnet18_cifar, tv, vgg16_cifar

MODELS = {"resnet18": resnet18_cifar, "small": lambda: ResNet8(10), "vgg16": lambda: vgg16_cifar(tv.vgg16_bn)}


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or ("resnet18", "small"):
        torch.manual_seed(0)
        model = MODELS[name]()
        # Fresh layers are alike, and the exporter writes what is alike once.
        with torch.no_grad():
            for values in [*model.parameters(), *(statistic for statistic in model.buffers() if statistic.dim() == 1)]:
                values += torch.empty_like(values).uniform_(0, 0.02)
        axes = {"images": {0: "batch"}, "logits": {0: "batch"}}
        torch.onnx.export(model.eval(), (torch.randn(2, 3, 32, 32),), folder / f"{name}.onnx", dynamo=False, opset_version=13, dynamic_axes=axes,
                          training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False, input_names=["images"], output_names=["logits"])


if __name__ == "__main__":
    main()
