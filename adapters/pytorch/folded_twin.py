"""Audits one unlearned ResNet18 as two files: as a file that keeps its batch normalisation, and as one from which the exporter took it away.

    python folded_twin.py CMIRA --data DIR --out OUT --settings SETTINGS.yaml > docs/results/folded-twin.md

It shows whether the attack finds the same in both, which is what `cmira audit` promises where it puts batch normalisation back. CMIRA is
the built binary; DIR has {train,test}/<class>/*.png, 32x32 RGB. A torchvision ResNet18 is trained on DIR/train, half of the images of five
classes are unlearned by gradient ascent, and the same weights are written as two files that predict the same:

OUT/kept.onnx      20 BatchNormalization nodes, any batch size
OUT/folded.onnx    none (each is in the convolution before it), a batch of 1

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
from types import SimpleNamespace

import onnx
import onnxruntime
import torch
import torchvision
from export import ADAPTER, MEAN, SCALE, STD, accuracy, augmented, copy_images, gradient_ascent, read, strip_traces
from torch.nn import functional as F
from zoo import resnet18_cifar

FORMS = {
    "cifar": (resnet18_cifar, "for 32x32 images (a 3x3 stem with stride 1, no max-pooling)"),
    "imagenet": (lambda: torchvision.models.resnet18(num_classes=10), "as torchvision builds it (a 7x7 stem with stride 2, max-pooling)"),
}
# name: (file, adapter, what it is)
ARMS = {
    "kept": ("kept.onnx", "adapter.yaml", "batch normalisation as exported"),
    "folded": ("folded.onnx", "adapter.yaml", "batch normalisation folded away, put back by `cmira audit`"),
    "control": ("folded.onnx", "adapter-keep.yaml", "batch normalisation folded away and left so (`batch_norm: keep`)"),
}
NORMALISATIONS = 20
ASCENT = SimpleNamespace(retain_loss=10, ascent_lr=2e-4, ascent_batch=64, ascent_steps=500)
DECIDING = {"acc_a_last": "Acc_A", "acc_u_after": "M_U after"}
SHOWN = ("acc_u", "acc_a_last", "acc_a_best", "acc_u_after", "acc_u_best", "r_i", "r_r", "agreement_rate")


def train(model, data, epochs, rate, batch):
    """SGD with a one-cycle schedule. Labels are smoothed, because ascent from a loss of almost nothing stands still and then leaps."""
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


def say(text):
    print(text, file=sys.stderr, flush=True)


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


def make(settings):
    """Trains, unlearns, and writes both files, both adapters, the image folders and what is known of them into OUT."""
    out, started = settings.out, time.perf_counter()
    classes = sorted(folder.name for folder in (settings.data / "train").iterdir() if folder.is_dir())
    everything = read(settings.data / "train", classes, None)
    probe = read(settings.data / "test", classes, None)
    chooser, chosen = random.Random(settings.seed), set()
    for label in range(5):
        own = (everything.labels == label).nonzero().flatten().tolist()
        chosen.update(chooser.sample(own, len(own) // 2))
    forget = everything.take(sorted(chosen))
    retain = everything.take([i for i in range(len(everything.labels)) if i not in chosen])

    torch.manual_seed(settings.seed)
    original = FORMS[settings.form][0]()
    if not (out / "original.pt").exists():
        train(original, everything, settings.epochs, settings.rate, settings.batch)
        torch.save(original.state_dict(), out / "original.pt")
    original.load_state_dict(torch.load(out / "original.pt"))
    unlearned, steps = gradient_ascent(original, forget, retain, ASCENT, settings.seed + 1)

    out.mkdir(parents=True, exist_ok=True)
    export_kept(unlearned, probe.images, out / "kept.onnx")
    export_folded(unlearned, probe.images, out / "folded.onnx")
    copy_images(forget, classes, out / "forget")
    copy_images(probe, classes, out / "probe")
    adapter = ADAPTER.format(scale=SCALE, mean=MEAN, std=STD, classes=", ".join(classes))
    (out / "adapter.yaml").write_text(adapter)
    (out / "adapter-keep.yaml").write_text(adapter + "repairs: {batch_norm: keep}\n")
    parts = {"forget": forget, "retain": retain, "probe": probe}
    kept, folded = (logits(out / name, forget.images) for name in ("kept.onnx", "folded.onnx"))
    return {
        "images": {name: len(part.labels) for name, part in parts.items()},
        "accuracy": {who: {name: accuracy(model, part) for name, part in parts.items()} for who, model in (("original", original), ("unlearned", unlearned))},
        "ascent_steps": steps,
        "seconds": time.perf_counter() - started,
        "difference": float((kept - folded).abs().max() / kept.abs().max()),
    }


def kept_in(path, compute):
    """What `compute` gives, from a JSON file if it is there already."""
    if not path.exists():
        result = compute()
        path.write_text(json.dumps(result, indent=2) + "\n")
    return json.loads(path.read_text())


def cmira(settings, *arguments):
    """Runs cmira in OUT on one thread; gives the command as it is printed, what it wrote, and the seconds it took."""
    command = [*map(str, arguments), "--device", "cpu", "--threads", "1"]
    started = time.perf_counter()
    done = subprocess.run([settings.cmira.resolve(), *command], cwd=settings.out, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"cmira {' '.join(command)}\n{done.stdout}{done.stderr}")
    return {"command": " ".join(["cmira", *command]), "output": done.stdout.strip(), "seconds": time.perf_counter() - started}


def check(settings, arm):
    file, adapter, _ = ARMS[arm]
    return kept_in(settings.out / f"check-{arm}.json", lambda: cmira(settings, "check", file, "--adapter", adapter, "--images", "probe"))


def put_back(checked):
    """At how many places a check put batch normalisation back."""
    found = re.search(r"put back at (\d+) places", checked["output"])
    return int(found[1]) if found else 0


def audit(settings, arm, seed):
    file, adapter, _ = ARMS[arm]
    name = f"audit-{arm}-{seed}"

    def compute():
        say(name)
        run = cmira(
            settings, "audit", "--model", file, "--adapter", adapter, "--forget", "forget", "--probe", "probe",
            "--settings", "settings.yaml", "--seed", seed, "--out", name, "--quiet",
        )
        say(f"{run['output']}\n{run['seconds']:.0f} s")
        return run | {"result": overall(settings.out / name)}

    return kept_in(settings.out / f"{name}.json", compute)


def overall(folder):
    """The numbers of the whole forget set, with the attack model's accuracy after stage 1 as `acc_a_first`."""
    with (folder / "results.csv").open() as results, (folder / "iterations.csv").open() as iterations:
        row = next(row for row in csv.DictReader(results) if row["class"] == "all")
        first = next(csv.DictReader(iterations))
    return {key: float(row[key]) for key in (*SHOWN, "iterations")} | {"acc_a_first": float(first["acc_a"])}


def spread_of(audits, key):
    """Mean, range and sample standard deviation over the seeds."""
    values = [audit["result"][key] for audit in audits]
    return statistics.mean(values), max(values) - min(values), statistics.stdev(values)


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}"


def page(settings, made, checks, audits):
    """The results as Markdown."""
    seeds = len(audits["kept"])
    images, accuracies = made["images"], made["accuracy"]
    yield "# A folded ResNet18 and its twin that kept batch normalisation\n"
    options = "".join(f" --{key} {value}" for key, value in settings.changed.items())
    yield (
        f"Made by `python adapters/pytorch/folded_twin.py target/release/cmira --data DATA --out OUT --settings {settings.settings.name}{options}`"
        f" on {processor()}; `DATA` by `cmira data draw`. PyTorch {torch.__version__}, {made['seconds'] / 60:.0f} minutes for the models,"
        f" {sum(audit['seconds'] for arm in audits.values() for audit in arm) / 60:.0f} for the audits, on one thread.\n"
    )
    yield (
        f"A ResNet18 {FORMS[settings.form][1]} is trained on {images['forget'] + images['retain']} images, and unlearns {images['forget']} of them, half of five"
        f" classes', by gradient ascent in {made['ascent_steps']} steps. {images['probe']} other images are the probing set. The same weights are written by `torch.onnx.export(dynamo=False)`"
        f" as two files, whose logits differ by {made['difference']:.1e} of the largest one: `kept.onnx` has {NORMALISATIONS} BatchNormalization nodes and any batch size, `folded.onnx` has none and a batch of 1."
        f" What the audit of each began with is what `cmira check` says:\n"
    )
    yield "| arm | file | what it is | normalisations put back |\n|---|---|---|---|"
    for arm, (file, _, about) in ARMS.items():
        yield f"| {arm} | {file} | {about} | {put_back(checks[arm])} of {NORMALISATIONS} |"
    yield "\nAccuracy before the attack, %, by PyTorch:\n\n| model | forget | retain | probe |\n|---|---|---|---|"
    for who, parts in accuracies.items():
        yield f"| {who} | " + " | ".join(f"{parts[name]:.2f}" for name in ("forget", "retain", "probe")) + " |"

    yield f"\n## Audits\n\nAll numbers are of the {images['forget']} forget images; the audits differ in file, adapter and seed only.\n"
    yield "| arm | seed | Acc_U | Acc_A after stage 1 | Acc_A | best Acc_A | M_U after | best M_U | R_I | R_R | agreement | iterations | seconds |"
    yield "|---" * 13 + "|"
    for arm, runs in audits.items():
        for seed, run in enumerate(runs, 1):
            r = run["result"]
            keys = ("acc_u", "acc_a_first", "acc_a_last", "acc_a_best", "acc_u_after", "acc_u_best", "r_i", "r_r", "agreement_rate")
            yield f"| {arm} | {seed} | " + " | ".join(f"{r[key]:.2f}" for key in keys) + f" | {r['iterations']:.0f} | {run['seconds']:.0f} |"

    yield f"\n## Differences\n\nOver {seeds} seeds. The spread is the larger of both arms' ranges (largest less smallest).\n"
    yield "| number | arm | mean | range | standard deviation | mean less that of kept | spread | within |\n|---|---|---|---|---|---|---|---|"
    outcome = {}
    for key, name in DECIDING.items():
        kept, kept_range, _ = spread_of(audits["kept"], key)
        for arm, runs in audits.items():
            mean, extent, deviation = spread_of(runs, key)
            line = f"| {name} | {arm} | {mean:.2f} | {extent:.2f} | {deviation:.2f} |"
            if arm != "kept":
                spread = max(extent, kept_range)
                outcome[arm, key] = (mean - kept, spread)
                line += f" {mean - kept:+.2f} | {spread:.2f} | {'yes' if abs(mean - kept) <= spread else 'no'} |"
            else:
                line += "  |  |  |"
            yield line

    def told(arm):
        for key, name in DECIDING.items():
            difference, spread = outcome[arm, key]
            relation = "within" if abs(difference) <= spread else "beyond"
            yield f"{name} by {abs(difference):.2f} points, {relation} the spread of {spread:.2f}"

    holds = all(abs(difference) <= spread for (arm, _), (difference, spread) in outcome.items() if arm == "folded")
    tells = any(abs(difference) > spread for (arm, _), (difference, spread) in outcome.items() if arm == "control")
    if not tells:
        verdict = "None. The comparison cannot tell the control from the twin, so that it would have called the folded model the same in any case."
    elif holds:
        verdict = f"The folded model, put back, and its twin give the same attack result within the spread of {seeds} seeds."
    else:
        verdict = f"The folded model, put back, and its twin do NOT give the same attack result within the spread of {seeds} seeds."
    yield f"\n## Verdict\n\n{verdict}"
    for arm in ("folded", "control"):
        yield f"The {arm} arm differs from kept in {', and in '.join(told(arm))}."

    yield "\n## Settings\n\nOf the attack; what is left out has its default, and the seed is each audit's:\n\n```yaml"
    yield "\n".join(line for line in settings.settings.read_text().splitlines() if not line.startswith("#"))
    yield "```\n\n## Steps\n\nEach was run in OUT.\n"
    for run in (*checks.values(), *(run for runs in audits.values() for run in runs)):
        yield f"{run['seconds']:.0f} s:\n\n```console\n$ {run['command']}\n{run['output']}\n```\n"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cmira", type=Path, help="the built binary (release)")
    parser.add_argument("--data", type=Path, required=True, help="folder with {train,test}/<class>/*.png")
    parser.add_argument("--out", type=Path, required=True, help="where models and audits are written")
    parser.add_argument("--settings", type=Path, required=True, help="settings of the attack; the seed in it is not used")
    parser.add_argument("--seeds", type=int, default=3, help="audits of each arm (default: %(default)s)")
    parser.add_argument("--form", choices=FORMS, default="cifar", help="form of ResNet18 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of training, of the forget set and of unlearning")
    parser.add_argument("--epochs", type=int, default=60, help="epochs of training (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=0.01, help="highest learning rate of training (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="images a step of training (default: %(default)s)")
    settings = parser.parse_args()
    settings.changed = {key: value for key in ("seeds", "form", "seed", "epochs", "rate", "batch") if (value := getattr(settings, key)) != parser.get_default(key)}
    return settings


def main():
    settings = arguments()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    warnings.simplefilter("ignore")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "settings.yaml").write_text(settings.settings.read_text())

    made = kept_in(settings.out / "made.json", lambda: make(settings))
    checks = {arm: check(settings, arm) for arm in ARMS}
    audits = {arm: [audit(settings, arm, seed) for seed in range(1, settings.seeds + 1)] for arm in ARMS}
    for part in page(settings, made, checks, audits):
        print(part)


if __name__ == "__main__":
    main()
