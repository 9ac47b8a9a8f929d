"""Runs `cmira check` and `cmira bench` over zoos of exports and writes how much memory each took as a Markdown table.

    python memory_table.py CMIRA ZOO [ZOO ...] > docs/results/memory.md

CMIRA is the built binary; each ZOO has an index.csv as the zoo scripts write it. A file that cannot be trained is a row with its error.
"""

import csv
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

BATCH = 8

HEAD = f"""# Memory of the frameworks' own exports

`cmira bench` on the files of [import.md](import.md), in batches of {BATCH} images of the size that each takes: forwards, backwards and a step of SGD
with momentum, then evaluation. *Weights*: all trainable numbers in float32. *Import*: how much the process grew at most from the file to the
trainable model, as `cmira check` says it. *Trained*: the most memory that the whole process of `cmira bench` had, libtorch's own
some 150 MiB included. Made by

    python adapters/memory_table.py target/release/cmira ZOO > docs/results/memory.md

on {platform.machine()} with {os.cpu_count()} cores. MiB everywhere.

"""


def output(*command):
    run = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    try:
        document = json.loads(run.stdout)
    except json.JSONDecodeError:
        return None, (run.stderr.strip().splitlines() or ["no output"])[0]
    return (None, document["error"]) if "error" in document else (document, None)


def row(cmira, path):
    checked, error = output(cmira, "check", path, "--json", "--device", "cpu")
    if checked is None:
        return ["", "", "", "", error]
    cells = [f"{4 * checked['parameters']['trainable'] / 2**20:.0f}", f"{checked['import_peak_mb'] * 1e6 / 2**20:.0f}"]
    errors = []
    for precision in ("fp32", "bf16"):
        timed, error = output(cmira, "bench", path, "--json", "--device", "cpu", "--precision", precision, "--batch", BATCH, "--images", BATCH, "--epochs", 1)
        cells.append("" if timed is None else str(timed["peak_rss_mb"]))
        errors.append(error)
    return cells + ["; ".join(dict.fromkeys(filter(None, errors))).replace("|", "/").replace(f"{path.parent}/", "")]


def main():
    cmira, zoos = Path(sys.argv[1]), [Path(zoo) for zoo in sys.argv[2:]]
    print(HEAD, end="")
    columns = ["framework", "model", "weights", "import", "trained, fp32", "trained, bf16", "errors"]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for zoo in zoos:
        with open(zoo / "index.csv", newline="") as file:
            for line in csv.DictReader(file):
                if line["status"] == "ok":
                    framework = line.get("framework", line["exporter"])
                    print("| " + " | ".join([framework, line["model"], *row(cmira, zoo / line["file"])]) + " |", flush=True)


if __name__ == "__main__":
    main()
