"""Trains a small classifier in Keras, makes it unlearn some of its training images by gradient ascent, and exports it.

    python export.py --data DIR --forget DIR --out FILE.onnx

The model scales bytes itself, so that it takes numbers from 0 to 255, and ends with a softmax, as Keras models do.
"""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common

# Folders there have frameworks' names, and Keras looks for frameworks.
sys.path.pop(0)

import keras
import numpy as np
import tensorflow as tf
from keras import layers

PACKAGES = ("tensorflow-cpu", "keras", "tf2onnx", "onnx", "numpy")


class Net:
    def __init__(self, classes, seed):
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(seed)
        images = x = keras.Input((32, 32, 3))
        x = layers.Rescaling(1 / 127.5, offset=-1)(x)
        for channels in (16, 32, 64):
            x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
            x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
            x = layers.ReLU()(x)
            x = layers.MaxPooling2D()(x) if channels < 64 else layers.GlobalAveragePooling2D()(x)
        self.model = keras.Model(images, layers.Dense(classes, activation="softmax")(x))
        self.optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        self.optimizer.build(self.model.trainable_variables)
        self.descend = tf.function(self._step, reduce_retracing=True)

    def _step(self, images, labels, training):
        with tf.GradientTape() as tape:
            probabilities = self.model(images, training=training)
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, probabilities))
            loss = loss if training else -loss
        return tape.gradient(loss, self.model.trainable_variables)

    def step(self, images, labels, rate):
        gradients = self.descend(tf.constant(images * 255), tf.constant(labels), rate > 0)
        if rate > 0:
            self.optimizer.learning_rate = rate
            self.optimizer.apply(gradients, self.model.trainable_variables)
        else:
            for variable, gradient in zip(self.model.trainable_variables, gradients):
                variable.assign_add(rate * gradient)

    def scores(self, images):
        return np.concatenate([self.model(part * 255, training=False).numpy() for part in np.array_split(images, 1 + len(images) // 256)])

    def weights(self):
        return self.model.get_weights()

    def load(self, weights):
        self.model.set_weights(weights)

    def export(self, path):
        self.model.export(str(path), format="onnx", verbose=False)


if __name__ == "__main__":
    common.run(__doc__, "adapters/keras/export.py", Net, PACKAGES)
