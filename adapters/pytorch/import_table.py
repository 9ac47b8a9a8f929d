"""Runs `cmira check` over a zoo of exports and writes what it found as a Markdown table.

    python zoo.py ZOO && python import_table.py ZOO CMIRA > docs/results/import.md

CMIRA is the built binary. Needs only Python's standard library. A file that cannot be checked is a row with its error, never left out.
"""

import csv
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

HEAD = """# Imports of PyTorch exports

`cmira check` on classifiers of torchvision 0.26 with random weights and batch statistics far from the identity, exported by both exporters of PyTorch 2.11.
Made by

    python adapters/pytorch/zoo.py ZOO && python adapters/pytorch/import_table.py ZOO target/debug/cmira > docs/results/import.md

on {machine}, {threads} threads.

*Error*: largest absolute difference from ONNX Runtime 1.30, divided by the largest output, over random images in batches of 1, 2 and 7 (also where the file was exported for a batch of 1).
*Arg-max*: share of images with the same arg-max. *Parameters*: trainable numbers; *gradients*: trainable tensors without a gradient, with one that is not finite, or that is zero.
*Import*: seconds from file to trainable model, search for baked batch sizes included. Exports with static batch unless they say dynamic; `keep-bn` keeps batch normalisation, which the TorchScript exporter else folds into convolutions.

"""


def check(cmira, path):
    run = subprocess.run([cmira, "check", str(path), "--json", "--device", "cpu"], capture_output=True, text=True)
    try:
        return json.loads(run.stdout), run
    except json.JSONDecodeError:
        return None, run


def row(cmira, path, cells):
    result, run = check(cmira, path)
    if result is None or not result["parity"]:
        return cells + ["", "", "", "", "", "", run.stderr.strip().replace("|", "/").replace(str(path), path.name)], False
    gradients = result["gradients"]
    faults = "/".join(str(len(gradients[key])) for key in ("missing", "non_finite", "zero"))
    repairs = "; ".join(result["repairs"])
    figures = [f"{result['parity']['max_rel']:.1e}", f"{100 * result['parity']['argmax_agreement']:.0f} %", str(result["parameters"]["trainable"]), faults]
    verdict = "" if run.returncode == 0 else run.stderr.strip().replace("|", "/")
    return cells + figures + [f"{result['import_s']:.2f}", repairs, verdict], run.returncode == 0 and "cannot be trained" not in repairs


def main():
    zoo, cmira = Path(sys.argv[1]), sys.argv[2]
    columns = ["model", "exporter", "opset", "batch", "error", "arg-max", "parameters", "gradients", "import", "repairs", "verdict"]
    print(HEAD.format(machine=f"{platform.machine()} with {os.cpu_count()} cores", threads=os.cpu_count()), end="")
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    good = total = 0
    refused = []
    with open(zoo / "index.csv", newline="") as file:
        for line in csv.DictReader(file):
            batch = "dynamic" if line["dynamic_batch"] == "true" else "1"
            if line["status"] != "ok":
                refused.append(f"- {line['model']}, {line['exporter']}, opset {line['opset']}: {line['status']}")
                continue
            total += 1
            cells, holds = row(cmira, zoo / line["file"], [line["model"], line["exporter"], line["file_opset"], batch])
            good += holds
            print("| " + " | ".join(cells) + " |", flush=True)
    print(f"\n{good} of {total} files hold: error at most 1e-4, arg-max identical, trained and evaluated on any batch size, every trainable parameter has a finite gradient that is not zero.")
    if refused:
        print("\nWhat the exporters themselves refuse or write in another opset than asked for:\n")
        print("\n".join(refused))


if __name__ == "__main__":
    main()
