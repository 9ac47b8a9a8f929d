"""What the zoo scripts of all frameworks share: one row of OUTDIR/index.csv for each architecture, exported or refused."""

import csv
import sys
import time
import traceback
from pathlib import Path

import numpy as np

COLUMNS = ["framework", "model", "exporter", "file", "seconds", "status"]


def spread(random, shape, low, high):
    """Numbers that are far from what makes a layer vanish."""
    return random.uniform(low, high, shape).astype(np.float32)


def export_all(framework, exporter, models, export):
    """
    Calls `export(name, path)` for each of `models`, or for those named on the command line behind the folder, and writes the index.
    What an exporter refuses is in the index, with its reason.
    """
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    index, rows = out / "index.csv", []
    if index.exists():
        rows = list(csv.DictReader(index.open(newline="")))
    for name in sys.argv[2:] or models:
        path, started, status = out / f"{framework}-{name}.onnx", time.time(), "ok"
        for old in out.glob(f"{path.name}*"):
            old.unlink()
        try:
            export(name, path)
            if not path.exists():
                status = "the exporter wrote no file"
        except Exception as error:
            traceback.print_exc()
            status = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]
        row = dict(zip(COLUMNS, [framework, name, exporter, path.name, f"{time.time() - started:.1f}", status]))
        rows = [old for old in rows if (old["framework"], old["model"]) != (framework, name)] + [row]
        with index.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        print(f"{framework} {name}: {status}", flush=True)
