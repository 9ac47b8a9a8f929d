"""Trains a perceptron in scikit-learn, makes it unlearn some of its training images by training again without them, and exports it.

    python export.py --data DIR --forget DIR --out FILE.onnx

Gradient ascent is nothing that scikit-learn can do. The model takes an image as a row of numbers, pixel after pixel,
scales it itself, and gives labels and a map from labels to probabilities, as its exporter does by default.
"""

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import common
import numpy as np
from skl2onnx import to_onnx
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

PACKAGES = ("scikit-learn", "skl2onnx", "onnx", "numpy")


class Net:
    def __init__(self, classes, seed):
        self.names = classes
        self.scaler = StandardScaler()
        self.net = MLPClassifier((16,), alpha=1, learning_rate_init=1e-3, random_state=seed, max_iter=40)

    def fit(self, images, labels):
        rows = images.reshape(len(images), -1)
        self.net.fit(self.scaler.fit_transform(rows), labels)

    def scores(self, images):
        return self.net.predict_proba(self.scaler.transform(images.reshape(len(images), -1)))

    def export(self, path):
        self.net.classes_ = np.array(self.names)
        self.net._label_binarizer.classes_ = np.array(self.names)
        pipeline = make_pipeline(self.scaler, self.net)
        path.write_bytes(to_onnx(pipeline, np.zeros((1, 3072), np.float32)).SerializeToString())


def main():
    warnings.simplefilter("ignore")
    settings = common.arguments(__doc__)
    classes, everything, parts = common.split(settings)
    accuracies = {}
    for who, images in (("original", everything), ("unlearned", parts["retain"])):
        net = Net(classes, settings.seed)
        net.fit(*images)
        accuracies[who] = common.measured(net, parts)
    common.write(settings, net, "RT", "adapters/sklearn/export.py", PACKAGES, accuracies, {})


if __name__ == "__main__":
    main()
