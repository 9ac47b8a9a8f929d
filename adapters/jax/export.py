"""Trains a small classifier in JAX with Flax, makes it unlearn some of its training images by gradient ascent, and exports it.

    python export.py --data DIR --forget DIR --out FILE.onnx
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import common
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import optax
from flax import nnx
from jax2onnx import to_onnx

PACKAGES = ("jax", "flax", "optax", "jax2onnx", "onnx", "numpy")
MEAN, STD = 0.5, 0.25


class Classifier(nnx.Module):
    def __init__(self, classes, rngs):
        widths = (3, 16, 32, 64)
        self.convolutions = nnx.List(
            nnx.Conv(a, b, (3, 3), padding="SAME", use_bias=False, rngs=rngs) for a, b in zip(widths, widths[1:])
        )
        self.norms = nnx.List(nnx.BatchNorm(width, momentum=0.9, rngs=rngs) for width in widths[1:])
        self.head = nnx.Linear(widths[-1], classes, rngs=rngs)

    def __call__(self, x):
        for index, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            x = nnx.relu(norm(convolution(x)))
            if index < 2:
                x = nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2))
        return self.head(jnp.mean(x, axis=(1, 2)))


def loss_of(model, images, labels):
    return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()


@nnx.jit
def descend(model, optimizer, images, labels):
    optimizer.update(model, nnx.grad(loss_of)(model, images, labels))


@nnx.jit
def ascend(model, images, labels, rate):
    gradients = nnx.grad(loss_of)(model, images, labels)
    moved = jax.tree.map(lambda value, gradient: value + rate * gradient, nnx.state(model, nnx.Param), gradients)
    nnx.update(model, moved)


class Net:
    def __init__(self, classes, seed):
        self.model = Classifier(classes, nnx.Rngs(seed))
        make = optax.inject_hyperparams(lambda learning_rate: optax.sgd(learning_rate, momentum=0.9))
        self.optimizer = nnx.Optimizer(self.model, make(learning_rate=0.1), wrt=nnx.Param)

    def step(self, images, labels, rate):
        x, y = jnp.asarray((images - MEAN) / STD), jnp.asarray(labels)
        if rate > 0:
            self.model.train()
            self.optimizer.opt_state.hyperparams["learning_rate"][...] = jnp.asarray(rate, jnp.float32)
            descend(self.model, self.optimizer, x, y)
        else:
            self.model.eval()
            ascend(self.model, x, y, -rate)

    def scores(self, images):
        self.model.eval()
        return np.asarray(self.model(jnp.asarray((images - MEAN) / STD)))

    def weights(self):
        return jax.tree.map(jnp.copy, nnx.state(self.model))

    def load(self, weights):
        nnx.update(self.model, weights)

    def export(self, path):
        self.model.eval()
        Path(str(path) + ".data").unlink(missing_ok=True)  # the exporter appends to what is there
        to_onnx(self.model, [("B", 32, 32, 3)], return_mode="file", output_path=str(path))
        file = onnx.load(path)
        onnx.save(file, path)  # one file
        Path(str(path) + ".data").unlink(missing_ok=True)


if __name__ == "__main__":
    common.run(__doc__, "adapters/jax/export.py", Net, PACKAGES)
