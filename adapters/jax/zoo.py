"""Exports classifiers written in Flax with random weights, as jax2onnx writes them by default: Flax ships no collection of its own.

    python zoo.py OUTDIR [MODEL ...]
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax2onnx import to_onnx

import zoo

CLASSES, SIDE = 10, 32


class ConvNorm(nnx.Module):
    def __init__(self, inputs, outputs, kernel, stride=1, groups=1, *, rngs):
        self.conv = nnx.Conv(inputs, outputs, (kernel, kernel), strides=stride, padding="SAME", use_bias=False, feature_group_count=groups, rngs=rngs)
        self.norm = nnx.BatchNorm(outputs, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.conv(x))


class Mlp(nnx.Module):
    def __init__(self, width, hidden, *, rngs):
        self.widen, self.narrow = nnx.Linear(width, hidden, rngs=rngs), nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, x):
        return self.narrow(nnx.gelu(self.widen(x)))


class Basic(nnx.Module):
    """A residual block of two convolutions."""

    def __init__(self, inputs, outputs, stride, *, rngs):
        self.first = ConvNorm(inputs, outputs, 3, stride, rngs=rngs)
        self.second = ConvNorm(outputs, outputs, 3, rngs=rngs)
        self.around = ConvNorm(inputs, outputs, 1, stride, rngs=rngs) if stride != 1 or inputs != outputs else lambda x: x

    def __call__(self, x):
        return nnx.relu(self.second(nnx.relu(self.first(x))) + self.around(x))


class Inverted(nnx.Module):
    """MobileNetV3's block: wide inside, depthwise, with squeeze and excitation."""

    def __init__(self, inputs, outputs, stride, *, rngs):
        wide = 4 * inputs
        self.widen = ConvNorm(inputs, wide, 1, rngs=rngs)
        self.depthwise = ConvNorm(wide, wide, 3, stride, wide, rngs=rngs)
        self.squeeze, self.excite = nnx.Linear(wide, wide // 4, rngs=rngs), nnx.Linear(wide // 4, wide, rngs=rngs)
        self.narrow = ConvNorm(wide, outputs, 1, rngs=rngs)
        self.is_residual = stride == 1 and inputs == outputs

    def __call__(self, x):
        y = nnx.hard_swish(self.depthwise(nnx.hard_swish(self.widen(x))))
        weights = nnx.hard_sigmoid(self.excite(nnx.relu(self.squeeze(jnp.mean(y, axis=(1, 2), keepdims=True)))))
        y = self.narrow(y * weights)
        return x + y if self.is_residual else y


class ConvNet(nnx.Module):
    """A stem, blocks, the average over positions, and a linear layer."""

    def __init__(self, block, plan, *, rngs):
        self.stem = ConvNorm(3, plan[0][0], 3, rngs=rngs)
        self.blocks = nnx.List([block(inputs, outputs, stride, rngs=rngs) for inputs, outputs, stride in plan])
        self.head = nnx.Linear(plan[-1][1], CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(1, 2)))


class PreNorm(nnx.Module):
    """A function of normalised values, added to them; over positions instead of channels where it says so."""

    def __init__(self, width, inner, turned=False, *, rngs):
        self.norm, self.inner, self.turned = nnx.LayerNorm(width, rngs=rngs), inner, turned

    def __call__(self, x):
        y = self.norm(x)
        return x + (jnp.swapaxes(self.inner(jnp.swapaxes(y, 1, 2)), 1, 2) if self.turned else self.inner(y))


class Patches(nnx.Module):
    """Patches as tokens: a vision transformer with a class token, or an MLP-Mixer without attention."""

    def __init__(self, attention, width=64, side=4, depth=4, *, rngs):
        tokens = (SIDE // side) ** 2
        self.embed = nnx.Conv(3, width, (side, side), strides=side, padding="VALID", rngs=rngs)
        draw = lambda *shape: nnx.Param(0.1 * jax.random.normal(rngs.params(), shape))
        self.token, self.places = (draw(1, 1, width), draw(1, tokens + 1, width)) if attention else (None, None)
        blocks = []
        for _ in range(depth):
            if attention:
                mix = nnx.MultiHeadAttention(num_heads=4, in_features=width, decode=False, rngs=rngs)
            else:
                mix = Mlp(tokens, 2 * tokens, rngs=rngs)
            blocks += [PreNorm(width, mix, not attention, rngs=rngs), PreNorm(width, Mlp(width, 4 * width, rngs=rngs), rngs=rngs)]
        self.blocks, self.norm = nnx.List(blocks), nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = self.embed(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        if self.token is not None:
            x = jnp.concatenate([jnp.tile(self.token[...], (x.shape[0], 1, 1)), x], axis=1) + self.places[...]
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.token is not None else jnp.mean(x, axis=1))


class Scaled(nnx.Module):
    """ConvNeXt's block: a large depthwise convolution, an MLP, and a learned scale."""

    def __init__(self, width, *, rngs):
        self.depthwise = nnx.Conv(width, width, (7, 7), feature_group_count=width, rngs=rngs)
        self.norm, self.mlp = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs), Mlp(width, 4 * width, rngs=rngs)
        self.scale = nnx.Param(jnp.full((width,), 0.3))

    def __call__(self, x):
        return x + self.scale[...] * self.mlp(self.norm(self.depthwise(x)))


class ConvNext(nnx.Module):
    def __init__(self, widths=(32, 64, 96), *, rngs):
        layers, inputs = [], 3
        for width in widths:
            layers += [nnx.Conv(inputs, width, (2, 2), strides=2, padding="VALID", rngs=rngs), nnx.LayerNorm(width, rngs=rngs)]
            layers += [Scaled(width, rngs=rngs), Scaled(width, rngs=rngs)]
            inputs = width
        self.layers, self.head = nnx.List(layers), nnx.Linear(inputs, CLASSES, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(jnp.mean(x, axis=(1, 2)))


class GroupNormed(nnx.Module):
    def __init__(self, *, rngs):
        self.conv = nnx.Conv(3, 32, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.GroupNorm(32, num_groups=8, rngs=rngs)
        self.up = nnx.ConvTranspose(32, 16, (2, 2), strides=(2, 2), rngs=rngs)
        self.head = nnx.Linear(16, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.elu(self.up(nnx.gelu(self.norm(self.conv(x)), approximate=False)))
        return nnx.log_softmax(self.head(jnp.mean(x, axis=(1, 2))))


WIDTHS = [(16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
MODELS = {
    "resnet": lambda rngs: ConvNet(Basic, WIDTHS, rngs=rngs),
    "mobilenet": lambda rngs: ConvNet(Inverted, [(16, 24, 2), (24, 24, 1), (24, 40, 2)], rngs=rngs),
    "vit": lambda rngs: Patches(True, rngs=rngs),
    "mixer": lambda rngs: Patches(False, rngs=rngs),
    "convnext": lambda rngs: ConvNext(rngs=rngs),
    "groupnorm": lambda rngs: GroupNormed(rngs=rngs),
}


def export(name, path):
    model = MODELS[name](nnx.Rngs(0))
    random = np.random.default_rng(0)
    for _, layer in nnx.iter_graph(model):
        if isinstance(layer, nnx.BatchNorm):
            spans = ((layer.mean, -0.2, 0.2), (layer.var, 0.5, 1.5), (layer.scale, 0.8, 1.2), (layer.bias, -0.2, 0.2))
            for value, low, high in spans:
                value[...] = jnp.asarray(zoo.spread(random, value.shape, low, high))
    model.eval()
    to_onnx(model, [("B", SIDE, SIDE, 3)], return_mode="file", output_path=str(path))


if __name__ == "__main__":
    zoo.export_all("flax", "jax2onnx", list(MODELS), export)
