"""What the export scripts of all frameworks share: images in, one original and one unlearned model, a file and a manifest out.

A framework gives a class with

    Net(classes, seed)               a fresh classifier of images [N, H, W, 3] with numbers from 0 to 1
    net.step(images, labels, rate)   one step down the cross-entropy; a negative rate steps up, with running statistics held
    net.scores(images)               class scores [N, K] in evaluation
    net.weights(), net.load(w)       a copy of everything that training changes, and back
    net.export(path)                 ONNX, as the framework's exporter writes it by default
    PACKAGES                         the packages whose versions matter

DATA has {train,test}/<class>/*.png. FORGET has the training images that are to be forgotten, by class and file name.
"""

import argparse
import hashlib
import importlib.metadata
import json
import math
import platform
from pathlib import Path

import numpy as np
from PIL import Image


def read(folder, classes):
    """Images [N, H, W, 3] as numbers from 0 to 1, labels, and `class/file` names."""
    paths = [(path, label) for label, name in enumerate(classes) for path in sorted((folder / name).glob("*.png"))]
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in paths]).astype(np.float32) / 255
    names = [f"{path.parent.name}/{path.name}" for path, _ in paths]
    return images, np.array([label for _, label in paths]), names


def augmented(images, random):
    """Each image mirrored or not, and moved by up to two pixels."""
    flips = random.random(len(images)) < 0.5
    images = np.where(flips[:, None, None, None], images[:, :, ::-1], images)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    size = images.shape[1]
    moves = random.integers(0, 5, (len(images), 2))
    return np.stack([image[y : y + size, x : x + size] for image, (y, x) in zip(padded, moves)])


def accuracy(net, images, labels):
    """Top-1 in percent."""
    return 100 * float(np.mean(net.scores(images).argmax(1) == labels))


def batches(count, size, random):
    order = random.permutation(count)
    return [order[start : start + size] for start in range(0, count - count % size, size)]


def train(net, images, labels, epochs, rate, seed, batch=16):
    """Gradient descent with a rate that rises for a fifth of the way and falls to nothing, as half waves of a cosine."""
    random = np.random.default_rng(seed)
    total, done = epochs * (len(labels) // batch), 0
    for _ in range(epochs):
        for rows in batches(len(labels), batch, random):
            rising = done < total / 5
            share = done / (total / 5) if rising else 1 - (done - total / 5) / (total * 4 / 5)
            net.step(augmented(images[rows], random), labels[rows], rate * (1 - math.cos(math.pi * share)) / 2)
            done += 1
    return net


def ascend(net, forget, retain, rate, loss, most=500, batch=50, seed=0):
    """
    Gradient ascent on the images to forget, until the accuracy on the retained ones has fallen by `loss` points; the last state
    before that is kept. Nothing but the retained images decides how far it goes.
    """
    random = np.random.default_rng(seed)
    floor = accuracy(net, *retain) - loss
    kept, steps = net.weights(), 0
    while steps < most:
        for rows in batches(len(forget[1]), batch, random):
            net.step(forget[0][rows], forget[1][rows], -rate)
            if accuracy(net, *retain) < floor:
                net.load(kept)
                return steps
            kept, steps = net.weights(), steps + 1
    return steps


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def arguments(doc):
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with {train,test}/<class>/*.png")
    parser.add_argument("--forget", type=Path, required=True, help="folder with the training images to forget, by class and file name")
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file; a manifest in JSON is put beside it")
    parser.add_argument("--epochs", type=int, default=40, help="epochs of training (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=0.1, help="highest learning rate of training (default: %(default)s)")
    parser.add_argument("--ascent-rate", type=float, default=1e-3, help="learning rate of gradient ascent (default: %(default)s)")
    parser.add_argument("--retain-loss", type=float, default=10, help="points that it may cost on retained images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def split(settings):
    """Classes, everything, and what of it is forgotten, retained, and the test split."""
    classes = sorted(folder.name for folder in (settings.data / "train").iterdir() if folder.is_dir())
    images, labels, names = read(settings.data / "train", classes)
    forgotten = {f"{path.parent.name}/{path.name}" for path in settings.forget.glob("*/*.png")}
    mask = np.array([name in forgotten for name in names])
    if mask.sum() != len(forgotten):
        raise SystemExit(f"{len(forgotten) - mask.sum()} of the images to forget are no training images")
    parts = {"forget": (images[mask], labels[mask]), "retain": (images[~mask], labels[~mask])}
    parts["test"] = read(settings.data / "test", classes)[:2]
    return classes, (images, labels), parts


def write(settings, net, method, producer, packages, accuracies, extra):
    """The file, what ONNX Runtime makes of it, and the manifest."""
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    net.export(settings.out)
    manifest = {
        "producer": producer,
        "method": method,
        "licence": "MIT OR Apache-2.0, as the project",
        "versions": {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages},
        "settings": {key: value for key, value in vars(settings).items() if key not in ("data", "forget", "out")},
        "accuracy": accuracies,
        "sha256": sha256(settings.out),
    } | extra
    settings.out.with_suffix(".json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(json.dumps(manifest["accuracy"]))


def measured(net, parts):
    return {name: round(accuracy(net, *part), 2) for name, part in parts.items()}


def run(doc, producer, make, packages):
    """Trains, unlearns by gradient ascent, exports."""
    settings = arguments(doc)
    classes, everything, parts = split(settings)
    net = make(len(classes), settings.seed)
    train(net, *everything, settings.epochs, settings.rate, settings.seed)
    accuracies = {"original": measured(net, parts)}
    steps = ascend(net, parts["forget"], parts["retain"], settings.ascent_rate, settings.retain_loss, seed=settings.seed)
    accuracies["unlearned"] = measured(net, parts)
    write(settings, net, "GA", producer, packages, accuracies, {"ascent_steps": steps})
