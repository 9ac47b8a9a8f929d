"""Audits unlearned ResNet18s as two files each: one that keeps its batch normalisation, and one from which the exporter took it away.

    python folded_twin.py CMIRA --data DIR --out OUT > docs/results/folded-twin.md

It shows whether the attack finds the same in both, which is what `cmira audit` promises where it puts batch normalisation back. CMIRA is
the built binary; DIR has {train,test}/<class>/*.png, 32x32 RGB, which are made half as wide and high. A ResNet18 is trained on DIR/train
and unlearns half of the images of five classes in several ways. The same weights are then written as two files that predict the same:

OUT/<way>/kept.onnx      20 BatchNormalization nodes, any batch size
OUT/<way>/folded.onnx    none (each is in the convolution before it), a batch of 1

Both are audited with seeds 1, 2, ..., and so is, as a control, folded.onnx with `repairs: {batch_norm: keep}`: the same predictions once
more, but nothing is put back, so that a comparison that calls everything the same would be found out. A mean difference of two arms is
held against the spread, the larger of both arms' ranges over the seeds. Whatever is in OUT already is not made again.
"""

import argparse
import csv
import json
import logging
import math
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import onnx
import onnxruntime
import torch
from export import ADAPTER, MEAN, SCALE, STD, accuracy, augmented, copy_images, read, strip_traces
from PIL import Image
from torch.nn import functional as F
from zoo import resnet18_cifar

NORMALISATIONS = 20
SIDE = 16
SEED = 1
SETTINGS = Path(__file__).with_suffix(".yaml")
WAYS = {
    "ft": "fine-tuned on the retained images, in training mode",
    "rt": "trained anew on the retained images",
}
# name: (file, adapter, what it is)
ARMS = {
    "kept": ("kept.onnx", "adapter.yaml", "batch normalisation as exported"),
    "folded": ("folded.onnx", "adapter.yaml", "batch normalisation folded away, put back by `cmira audit`"),
    "control": ("folded.onnx", "adapter-keep.yaml", "batch normalisation folded away and left so (`batch_norm: keep`)"),
}
DECIDING = {"acc_a_last": "Acc_A", "acc_u_after": "M_U after"}


def say(text):
    print(text, file=sys.stderr, flush=True)


def descend(model, data, epochs, rate, batch):
    """SGD with a one-cycle schedule, in training mode, with labels smoothed."""
    optimiser = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * math.ceil(len(data.labels) / batch))
    for epoch in range(epochs):
        model.train()
        losses = []
        for rows in torch.randperm(len(data.labels)).split(batch):
            loss = F.cross_entropy(model(augmented(data.images[rows])), data.labels[rows], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        say(f"epoch {epoch + 1} of {epochs}: loss {statistics.mean(losses):.3f}")
    return model


def unlearn(way, original, retain, epochs):
    torch.manual_seed(SEED + 1)
    if way == "ft":
        return descend(original, retain, 8, 0.01, 32)
    return descend(resnet18_cifar(), retain, 2 * epochs, 0.02, 32)


def export_kept(model, images, path):
    """Keeps batch normalisation: PRESERVE on a model in eval mode, and nothing is computed ahead. Any batch size."""
    torch.onnx.export(
        model.eval(), (images[:2],), path, dynamo=False, input_names=["images"], output_names=["logits"],
        training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False, dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
    )
    assert shape_of(path) == (NORMALISATIONS, "batch"), shape_of(path)


def export_folded(model, images, path):
    """The exporter's defaults: batch normalisation goes into the convolutions, and the batch is as large as the example's, 1."""
    torch.onnx.export(model.eval(), (images[:1],), path, dynamo=False, input_names=["images"], output_names=["logits"])
    assert shape_of(path) == (0, 1), shape_of(path)


def shape_of(path):
    """How many normalisations a file has, and its batch size, a number or a name."""
    strip_traces(path)
    graph = onnx.load(path).graph
    batch = graph.input[0].type.tensor_type.shape.dim[0]
    return sum(node.op_type.endswith("Normalization") for node in graph.node), batch.dim_param or batch.dim_value


def logits(path, images):
    """What ONNX Runtime computes, image by image."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return torch.cat([torch.from_numpy(session.run(None, {"images": image.numpy()})[0]) for image in images.split(1)])


def shrink(source, target):
    for path in sorted(source.rglob("*.png")):
        file = target / path.relative_to(source)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX).save(file)


def images_of(settings):
    """The classes' names, and the images for training, to forget, to retain and to probe with."""
    data = settings.out / "data"
    if not data.exists():
        shrink(settings.data, data)
    classes = sorted(folder.name for folder in (data / "train").iterdir() if folder.is_dir())
    everything = read(data / "train", classes, None)
    chooser, chosen = random.Random(SEED), set()
    for label in range(5):
        own = (everything.labels == label).nonzero().flatten().tolist()
        chosen.update(chooser.sample(own, len(own) // 2))
    retain = everything.take([i for i in range(len(everything.labels)) if i not in chosen])
    return classes, everything, everything.take(sorted(chosen)), retain, read(data / "test", classes, None)


def make(settings, way):
    """Trains, unlearns, and writes both files, both adapters, the image folders and what is known of them."""
    classes, everything, forget, retain, probe = images_of(settings)
    started, stored = time.perf_counter(), settings.out / "original.pt"
    original = resnet18_cifar()
    if not stored.exists():
        torch.manual_seed(SEED)
        original = descend(resnet18_cifar(), everything, settings.epochs, 0.02, 32)
        torch.save(original.state_dict(), stored)
    original.load_state_dict(torch.load(stored))
    parts = {"forget": forget, "retain": retain, "probe": probe}
    before = {name: accuracy(original, part) for name, part in parts.items()}
    unlearned = unlearn(way, original, retain, settings.epochs)

    out = settings.out / way
    out.mkdir(parents=True, exist_ok=True)
    export_kept(unlearned, probe.images, out / "kept.onnx")
    export_folded(unlearned, probe.images, out / "folded.onnx")
    copy_images(forget, classes, out / "forget")
    copy_images(probe, classes, out / "probe")
    adapter = ADAPTER.format(scale=SCALE, mean=MEAN, std=STD, classes=", ".join(classes)).replace("32", str(SIDE))
    (out / "adapter.yaml").write_text(adapter)
    (out / "adapter-keep.yaml").write_text(adapter + "repairs: {batch_norm: keep}\n")
    (out / "settings.yaml").write_text(SETTINGS.read_text())
    kept, folded = (logits(out / name, forget.images) for name in ("kept.onnx", "folded.onnx"))
    return {
        "images": {name: len(part.labels) for name, part in parts.items()},
        "before": before,
        "after": {name: accuracy(unlearned, part) for name, part in parts.items()},
        "seconds": time.perf_counter() - started,
        "difference": float((kept - folded).abs().max() / kept.abs().max()),
    }


def kept_in(path, compute):
    """What `compute` gives, from a JSON file if it is there already."""
    if not path.exists():
        result = compute()
        path.write_text(json.dumps(result, indent=2) + "\n")
    return json.loads(path.read_text())


def cmira(settings, folder, *arguments):
    """Runs cmira on one thread; gives what it wrote and the seconds it took."""
    started = time.perf_counter()
    command = [settings.cmira.resolve(), *map(str, arguments), "--device", "cpu", "--threads", "1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"cmira {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
    return {"output": done.stdout.strip(), "seconds": time.perf_counter() - started}


def put_back(settings, way, arm):
    """At how many places a check puts batch normalisation back."""
    file, adapter, _ = ARMS[arm]
    folder = settings.out / way
    checked = kept_in(folder / f"check-{arm}.json", lambda: cmira(settings, folder, "check", file, "--adapter", adapter, "--images", "probe"))
    found = re.search(r"put back at (\d+) places", checked["output"])
    return int(found[1]) if found else 0


def audit(settings, way, arm, seed):
    file, adapter, _ = ARMS[arm]
    folder, name = settings.out / way, f"audit-{arm}-{seed}"

    def compute():
        run = cmira(
            settings, folder, "audit", "--model", file, "--adapter", adapter, "--forget", "forget", "--probe", "probe",
            "--settings", "settings.yaml", "--seed", seed, "--out", name, "--quiet",
        )
        say(f"{way} {name}: {run['seconds']:.0f} s\n{run['output']}")
        return run | found_in(folder / name)

    return kept_in(folder / f"{name}.json", compute)


def found_in(folder):
    """The numbers of the whole forget set, the attack model's accuracy after stage 1, and the class recovered for every image."""
    with (folder / "results.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["class"] == "all")
    with (folder / "iterations.csv").open() as file:
        first = next(csv.DictReader(file))
    with (folder / "predictions.csv").open() as file:
        recovered = {row["image"]: row["recovered_label"] for row in csv.DictReader(file)}
    numbers = {key: float(row[key]) for key in ("acc_u", "acc_a_last", "acc_a_best", "acc_u_after", "acc_u_best", "agreement_rate")}
    return numbers | {"acc_a_first": float(first["acc_a"]), "recovered": recovered}


def alike(one, other):
    """Share of the forget images for which two audits recovered the same class, percent."""
    one, other = one["recovered"], other["recovered"]
    return 100 * sum(one[image] == other[image] for image in one) / len(one)


def compared(audits, key, arm):
    """Difference of an arm's mean from that of kept, and the spread: the larger of both ranges over the seeds."""
    values = {name: [run[key] for run in audits[name]] for name in ("kept", arm)}
    spread = max(max(runs) - min(runs) for runs in values.values())
    return statistics.mean(values[arm]) - statistics.mean(values["kept"]), spread


def processor():
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}"


def section(settings, way, made, audits):
    """One way of unlearning, as Markdown."""
    yield f"\n## {way}: {WAYS[way]}\n"
    columns = ("forget", "retain", "probe")
    yield "Accuracy by PyTorch, %: " + ", ".join(f"{name} {made['before'][name]:.1f} → {made['after'][name]:.1f}" for name in columns) + "."
    places = ", ".join(f"{put_back(settings, way, arm)} in {arm}" for arm in ARMS)
    yield f"Logits of the two files differ by {made['difference']:.1e} of the largest one. Normalisations put back: {places}, of {NORMALISATIONS}.\n"
    yield "| arm | seed | Acc_U | Acc_A after stage 1 | Acc_A | best Acc_A | M_U after | best M_U | agreement | recovered as in kept, % | seconds |"
    yield "|---" * 11 + "|"
    keys = ("acc_u", "acc_a_first", "acc_a_last", "acc_a_best", "acc_u_after", "acc_u_best", "agreement_rate")
    for arm, runs in audits.items():
        for seed, (run, twin) in enumerate(zip(runs, audits["kept"]), 1):
            numbers = " | ".join(f"{run[key]:.2f}" for key in keys)
            same = "" if arm == "kept" else f"{alike(run, twin):.1f}"
            yield f"| {arm} | {seed} | {numbers} | {same} | {run['seconds']:.0f} |"
    pairs = [alike(a, b) for i, a in enumerate(audits["kept"]) for b in audits["kept"][:i]]
    yield f"\nTwo audits of kept with different seeds recover the same class for {statistics.mean(pairs):.1f} % of the images.\n"
    yield "| number | arm | mean less that of kept | spread | within |\n|---|---|---|---|---|"
    for key, name in DECIDING.items():
        for arm in ("folded", "control"):
            difference, spread = compared(audits, key, arm)
            yield f"| {name} | {arm} | {difference:+.2f} | {spread:.2f} | {'yes' if abs(difference) <= spread else 'no'} |"


def page(settings, made, audits):
    """The results as Markdown."""
    images = next(iter(made.values()))["images"]
    seconds = sum(run["seconds"] for arms in audits.values() for runs in arms.values() for run in runs)
    yield "# A folded ResNet18 and its twin that kept batch normalisation\n"
    yield (
        f"Made by `python adapters/pytorch/folded_twin.py target/release/cmira --data DATA --out OUT --seeds {settings.seeds} --ways {' '.join(audits)}` on {processor()}, one thread;"
        f" `DATA` by `cmira data draw DATA {settings.drawn}`. PyTorch {torch.__version__}. The audits took {seconds / 60:.0f} minutes.\n"
    )
    yield (
        f"A ResNet18 for small images (a 3x3 stem with stride 1, no max-pooling) is trained on {images['forget'] + images['retain']} images of {SIDE}x{SIDE}, and unlearns {images['forget']} of them, half of five"
        f" classes'. {images['probe']} other images are the probing set. The same weights are written by `torch.onnx.export(dynamo=False)`"
        f" as `kept.onnx` ({NORMALISATIONS} BatchNormalization nodes, any batch size) and as `folded.onnx` (none, a batch of 1). Audits of one seed begin with the same attack model and differ in file and adapter only:\n"
    )
    yield "| arm | file | what it is |\n|---|---|---|"
    for arm, (file, _, about) in ARMS.items():
        yield f"| {arm} | {file} | {about} |"
    yield "\nThe spread is the larger of both arms' ranges (largest less smallest) over the seeds. *Recovered as in kept*: forget images for which the audit recovers the class that the audit of kept with the same seed does."
    for way in audits:
        yield from section(settings, way, made[way], audits[way])
    yield "\n## Settings\n\nOf the attack; what is left out has its default, and the seed is each audit's:\n\n```yaml"
    yield "\n".join(line for line in SETTINGS.read_text().splitlines() if not line.startswith("#"))
    yield "```"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cmira", type=Path, help="the built binary (release)")
    parser.add_argument("--data", type=Path, required=True, help="folder with {train,test}/<class>/*.png")
    parser.add_argument("--drawn", default="--train-per-class 60 --test-per-class 40", help="options that the folder was drawn with, for the page (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="where models and audits are written")
    parser.add_argument("--seeds", type=int, default=3, help="audits of each arm (default: %(default)s)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="ways of unlearning (default: all)")
    parser.add_argument("--epochs", type=int, default=40, help="epochs of training (default: %(default)s)")
    return parser.parse_args()


def main():
    settings = arguments()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    warnings.simplefilter("ignore")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    settings.out.mkdir(parents=True, exist_ok=True)
    made, audits = {}, {}
    for way in settings.ways:
        (settings.out / way).mkdir(exist_ok=True)
        made[way] = kept_in(settings.out / way / "made.json", lambda: make(settings, way))
        audits[way] = {arm: [] for arm in ARMS}
        for seed in range(1, settings.seeds + 1):
            for arm in ARMS:
                audits[way][arm].append(audit(settings, way, arm, seed))
    for line in page(settings, made, audits):
        print(line)


if __name__ == "__main__":
    main()
