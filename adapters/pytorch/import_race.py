"""Imports the same files by cmira and by onnx2torch, in turn, and writes medians and ratios as Markdown.

    python import_race.py CMIRA ROUNDS FILE.onnx [FILE.onnx ...] > docs/results/import-speed.md

CMIRA is the built binary (release). Needs onnx2torch beside requirements.txt. Each import runs in a process of its own; time is from file
to trainable model, memory what the process took at its height beyond what it had before.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

PEER = """
import json, sys, time
import onnx2torch, torch
def field(name):
    return next(int(line.split()[1]) * 1024 / 1e6 for line in open("/proc/self/status") if line.startswith(name))
torch.set_num_threads(2)
before, started = field("VmRSS:"), time.perf_counter()
onnx2torch.convert(sys.argv[1])
print(json.dumps({"import_s": time.perf_counter() - started, "import_peak_mb": field("VmHWM:") - before}))
"""


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        return json.loads(done.stdout[done.stdout.index("{"):])
    except ValueError:
        raise SystemExit(f"{command[0]}: {done.stderr.strip()}")


def main():
    cmira, rounds, files = sys.argv[1], int(sys.argv[2]), [Path(name) for name in sys.argv[3:]]
    names = " ".join(file.name for file in files)
    print("# Import time and memory beside onnx2torch\n")
    print(f"Made by `python adapters/pytorch/import_race.py target/release/cmira {rounds} {names}` on {platform.machine()} with {os.cpu_count()} cores; the files by `adapters/pytorch/zoo.py`. Medians of {rounds} rounds, the two in turn.")
    print("cmira's time includes finding out how many classes there are and whether any batch size runs, which onnx2torch does not look at.\n")
    print("| file | MB | cmira, s | onnx2torch, s | ratio | cmira, MB | of the file | onnx2torch, MB |\n|---|---|---|---|---|---|---|---|")
    for file in files:
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(run([cmira, "check", str(file), "--json", "--device", "cpu", "--threads", "2"]))
            theirs.append(run([sys.executable, "-c", PEER, str(file)]))
        median = lambda results, key: statistics.median(result[key] for result in results)
        a, b = median(ours, "import_s"), median(theirs, "import_s")
        peak, size = median(ours, "import_peak_mb"), file.stat().st_size / 1e6
        print(f"| {file.name} | {size:.0f} | {a:.2f} | {b:.2f} | {b / a:.2f} | {peak:.0f} | {peak / size:.2f} | {median(theirs, 'import_peak_mb'):.0f} |")


if __name__ == "__main__":
    main()
