"""Reads TensorBoard event files with TensorBoard itself, and compares them with an audit's table.

Usage: events.py LOGS ITERATIONS.csv
"""

import csv
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

logs, table = map(Path, sys.argv[1:])
read = EventAccumulator(str(logs / "attack P+U+A"))
read.Reload()
tags = set(read.Tags()["scalars"])
wanted = {"accuracy/attack model", "accuracy/unlearned model", "agreement", "loss/attack", "loss/unlearned"}
assert wanted <= tags, f"{wanted - tags} are missing"
with table.open() as file:
    rows = [row for row in csv.DictReader(file) if row["variant"] == "P+U+A" and row["iteration"] != "0"]
events = read.Scalars("accuracy/attack model")
assert [event.step for event in events] == [int(row["iteration"]) for row in rows]
assert all(abs(event.value - float(row["acc_a"])) < 1e-4 for event, row in zip(events, rows))
print(f"{len(tags)} curves, {len(rows)} iterations as in {table.name}")
