"""Exports classifiers of keras.applications with random weights, as Keras's own exporter writes them by default.

    python zoo.py OUTDIR [MODEL ...]
"""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import zoo

# Folders there have frameworks' names, and Keras looks for frameworks.
sys.path.pop(0)

import keras
import numpy as np

# Side of the images: the smallest usual one that the network takes.
SIZES = {"NASNetMobile": 224, "ResNet50": 224}
MODELS = [
    "ResNet50", "ResNet50V2", "VGG16", "VGG19", "MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large", "DenseNet121",
    "EfficientNetB0", "EfficientNetV2B0", "InceptionV3", "InceptionResNetV2", "Xception", "NASNetMobile", "ConvNeXtTiny",
]


def leaves(layer):
    for inner in getattr(layer, "layers", []):
        yield inner
        yield from leaves(inner)


def export(name, path):
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    size = SIZES.get(name, 96)
    model = getattr(keras.applications, name)(weights=None, classes=10, input_shape=(size, size, 3))
    normalisations = [layer for layer in leaves(model) if isinstance(layer, keras.layers.BatchNormalization)]
    momentum = [layer.momentum for layer in normalisations]
    for layer in leaves(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.3
            for variable, low, high in ((layer.gamma, 0.8, 1.2), (layer.beta, -0.2, 0.2)):
                if variable is not None:
                    variable.assign(zoo.spread(random, variable.shape, low, high))
        elif not isinstance(layer, keras.layers.Normalization) and hasattr(getattr(layer, "bias", None), "assign"):
            layer.bias.assign(zoo.spread(random, layer.bias.shape, -0.1, 0.1))
    # A model has to have been called before it can be exported.
    for _ in range(3):
        model(random.standard_normal((4, size, size, 3)).astype(np.float32), training=True)
    for layer, value in zip(normalisations, momentum):
        layer.momentum = value
    model.export(str(path), format="onnx", verbose=False)
    keras.backend.clear_session()


if __name__ == "__main__":
    zoo.export_all("keras", "keras export", MODELS, export)
