"""Runs `cmira check` and `cmira export` over zoos of exports and writes what came out as a Markdown table.

    python import_table.py CMIRA ZOO [ZOO ...] > docs/results/import.md

CMIRA is the built binary; each ZOO has an index.csv as the zoo scripts write it. Needs the onnx package, whose checker judges what is
exported. A file that cannot be imported is a row with its error, never left out.
"""

import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

HEAD = """# Imports of the frameworks' own exports

`cmira check` and `cmira export` on classifiers with random weights and batch statistics far from the identity, exported by their framework's own tool. Made by

{made}

on {machine}, {threads} threads.

*Error*: largest absolute difference from ONNX Runtime 1.30, divided by the largest output, over random images in batches of 1, 2 and 7 (also where the file was exported for another batch), and whether every arg-max is the same.
*Parameters*: trainable numbers. *Gradients*: trainable tensors without a gradient, with one that is not finite, or that is zero. *Step*: cross-entropy before and after one step of gradient descent, in training mode where the batch size is free.
*Back*: the import written as ONNX again passes `onnx.checker` with full check, and ONNX Runtime gives for it what the import gives. *Import*: seconds from file to trainable model, the search for baked batch sizes included.

"""


def check(cmira, path):
    run = subprocess.run([cmira, "check", str(path), "--json", "--device", "cpu"], capture_output=True, text=True)
    try:
        return json.loads(run.stdout), run.stderr.strip()
    except json.JSONDecodeError:
        return None, run.stderr.strip()


CHECKER = "import onnx, sys; onnx.checker.check_model(sys.argv[1], full_check=True)"


def back(cmira, path):
    """Empty if the export is good."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / path.name
        run = subprocess.run([cmira, "export", str(path), "--out", str(out), "--device", "cpu"], capture_output=True, text=True)
        if run.returncode != 0 or "compared with ONNX Runtime: largest" not in run.stderr:
            return (run.stderr.strip().splitlines() or ["no output"])[-1]
        checked = subprocess.run([sys.executable, "-c", CHECKER, str(out)], capture_output=True, text=True)
        return (checked.stderr.strip().splitlines() or [""])[-1] if checked.returncode else ""


def plain(text, path):
    return text.replace("|", "/").replace(f"{path.parent}/", "").replace("\n", " ")


def row(cmira, path, cells):
    """The table's row, and whether the file holds all that is asked."""
    result, errors = check(cmira, path)
    if result is None or not result.get("parity"):
        return cells + [""] * 7 + [plain(errors, path)], False
    gradients, parity = result["gradients"], result["parity"]
    faults = "/".join(str(len(gradients[key])) for key in ("missing", "non_finite", "zero"))
    step = gradients["step"]
    moved = f"{step['before']:.3f} → {step['after']:.3f}" if step else "none"
    error = f"{parity['max_rel']:.1e}" + ("" if parity["argmax_agreement"] == 1 else f", arg-max {100 * parity['argmax_agreement']:.0f} %")
    written = back(cmira, path)
    figures = [str(result["opset"]), error, str(result["parameters"]["trainable"]), faults, moved, plain(written, path) or "yes", f"{result['import_s']:.2f}"]
    said = "; ".join(result["repairs"] + ([plain(errors, path)] if errors else []))
    holds = not errors and not written and "cannot be trained" not in said
    return cells + figures + [said], holds


def main():
    cmira, zoos = sys.argv[1], [Path(zoo) for zoo in sys.argv[2:]]
    made = """    python adapters/keras/zoo.py ZOO; python adapters/paddle/zoo.py ZOO; python adapters/jax/zoo.py ZOO
    python adapters/pytorch/zoo_default.py torchvision ZOO; python adapters/pytorch/zoo_default.py timm ZOO
    python adapters/import_table.py target/release/cmira ZOO > docs/results/import.md"""
    print(HEAD.format(made=made, machine=f"{platform.machine()} with {os.cpu_count()} cores", threads=os.cpu_count()), end="")
    columns = ["framework", "model", "opset", "error", "parameters", "gradients", "step", "back", "import", "repairs and errors"]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    good, total, refused = Counter(), Counter(), []
    for zoo in zoos:
        with open(zoo / "index.csv", newline="") as file:
            for line in csv.DictReader(file):
                framework, model = line.get("framework", line["exporter"]), line["model"]
                if line["status"] != "ok":
                    refused.append(f"- {framework}, {model}: {line['status']}")
                    continue
                total[framework] += 1
                cells, holds = row(cmira, zoo / line["file"], [framework, model])
                good[framework] += holds
                print("| " + " | ".join(cells) + " |", flush=True)
    print(f"\n{sum(good.values())} of {sum(total.values())} files hold all of it: " + ", ".join(f"{name} {good[name]} of {total[name]}" for name in total) + ".")
    if refused:
        print("\nWhat the exporters themselves refuse:\n")
        print("\n".join(refused))


if __name__ == "__main__":
    main()
