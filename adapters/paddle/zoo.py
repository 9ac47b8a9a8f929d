"""Exports classifiers of paddle.vision with random weights, as paddle.onnx.export writes them by default.

    python zoo.py OUTDIR [MODEL ...]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import paddle
import zoo

MODELS = [
    "LeNet", "alexnet", "vgg11", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "squeezenet1_0", "densenet121", "mobilenet_v1",
    "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "shufflenet_v2_x1_0", "googlenet", "inception_v3",
]


def export(name, path):
    paddle.seed(0)
    random = np.random.default_rng(0)
    shape = (1, 28, 28) if name == "LeNet" else (3, 299, 299) if name == "inception_v3" else (3, 224, 224)
    model = getattr(paddle.vision.models, name)(num_classes=10)
    normalisations = [layer for layer in model.sublayers() if isinstance(layer, (paddle.nn.BatchNorm2D, paddle.nn.BatchNorm))]
    momentum = [layer._momentum for layer in normalisations]
    for layer in model.sublayers():
        if layer in normalisations:
            layer._momentum = 0.3
            layer.weight.set_value(zoo.spread(random, layer.weight.shape, 0.8, 1.2))
            layer.bias.set_value(zoo.spread(random, layer.bias.shape, -0.2, 0.2))
        elif hasattr(getattr(layer, "bias", None), "set_value"):
            layer.bias.set_value(zoo.spread(random, layer.bias.shape, -0.1, 0.1))
    model.train()
    with paddle.no_grad():
        for _ in range(3 if normalisations else 0):
            model(paddle.to_tensor(random.standard_normal((4, *shape)).astype(np.float32)))
    for layer, value in zip(normalisations, momentum):
        layer._momentum = value
    model.eval()
    paddle.onnx.export(model, str(path.with_suffix("")), input_spec=[paddle.static.InputSpec([None, *shape], "float32", "images")])


if __name__ == "__main__":
    zoo.export_all("paddle", "paddle.onnx.export", MODELS, export)
