"""Trains a small classifier in PaddlePaddle, makes it unlearn some of its training images by gradient ascent, and exports it.

    python export.py --data DIR --forget DIR --out FILE.onnx
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import common
import numpy as np
import paddle
from paddle import nn

PACKAGES = ("paddlepaddle", "paddle2onnx", "onnx", "numpy")
MEAN, STD = 0.5, 0.25


class Net:
    def __init__(self, classes, seed):
        paddle.seed(seed)
        widths = (3, 16, 32, 64)
        layers = []
        for inputs, outputs in zip(widths, widths[1:]):
            layers += [nn.Conv2D(inputs, outputs, 3, padding=1, bias_attr=False), nn.BatchNorm2D(outputs, momentum=0.9), nn.ReLU()]
            layers.append(nn.MaxPool2D(2) if outputs < 64 else nn.AdaptiveAvgPool2D(1))
        self.model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, classes))
        self.optimizer = paddle.optimizer.Momentum(0.1, 0.9, parameters=self.model.parameters())

    def tensor(self, images):
        return paddle.to_tensor(np.ascontiguousarray(((images - MEAN) / STD).transpose(0, 3, 1, 2), dtype=np.float32))

    def step(self, images, labels, rate):
        self.model.train() if rate > 0 else self.model.eval()
        loss = nn.functional.cross_entropy(self.model(self.tensor(images)), paddle.to_tensor(labels))
        loss.backward()
        if rate > 0:
            self.optimizer.set_lr(rate)
            self.optimizer.step()
        else:
            with paddle.no_grad():
                # Running statistics are among the parameters, without a gradient.
                for parameter in (p for p in self.model.parameters() if not p.stop_gradient):
                    parameter.set_value(parameter - rate * parameter.grad)  # up: the rate is negative
        self.optimizer.clear_grad()

    def scores(self, images):
        self.model.eval()
        with paddle.no_grad():
            return self.model(self.tensor(images)).numpy()

    def weights(self):
        return {name: value.numpy().copy() for name, value in self.model.state_dict().items()}

    def load(self, weights):
        self.model.set_state_dict(weights)

    def export(self, path):
        self.model.eval()
        spec = paddle.static.InputSpec([None, 3, 32, 32], "float32", "images")
        paddle.onnx.export(self.model, str(path.with_suffix("")), input_spec=[spec])
        if not path.exists():
            raise SystemExit("paddle2onnx wrote no file; it says why above, if at all")


if __name__ == "__main__":
    common.run(__doc__, "adapters/paddle/export.py", Net, PACKAGES)
