"""Measures on one NVIDIA GPU, in under ten minutes: cmira beside PyTorch eager and compiled, and one attack.

    python race_models.py DIR resnet18 vgg16
    python gpu_race.py --cmira CMIRA --peer PEER.py --models DIR [--batch 256] [--limit 540] [--attack "AUDIT ARGUMENTS"] > docs/results/gpu.md

CMIRA is the built binary (release), DIR what race_models.py wrote (PYTHONPATH says where onnx and onnx2torch are, if not in Python's own folder), PEER.py a script as `cargo xtask bench-peer --help` describes it. libtorch is that
of the Python that runs this, which has to be the release that the binary was built for. Nothing is built or fetched here. What does not fit
into the limit, in seconds, is said to be missing; the attack is given what time is left, and how far it came is said.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch

STARTED = time.monotonic()


def left(limit):
    return limit - (time.monotonic() - STARTED)


def environment():
    libraries = Path(torch.__file__).parent / "lib"
    return {**os.environ, "LD_LIBRARY_PATH": f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}"}


def run(command, limit):
    """The last line of JSON that a command prints, or why there is none."""
    if left(limit) < 20:
        return None, "no time was left"
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=left(limit))
    except subprocess.TimeoutExpired:
        return None, "no time was left"
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        return None, (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return json.loads(lines[-1]), ""


def matrix_rate():
    """Multiplications with an addition a second of a bfloat16 product of square matrices, in billions: the limit."""
    side = 8192
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        a @ b
    torch.cuda.synchronize()
    return 10 * side**3 / (time.perf_counter() - started) / 1e9


def main():
    parser = argparse.ArgumentParser()
    for name in ("--cmira", "--peer", "--models"):
        parser.add_argument(name, required=True)
    parser.add_argument("--batch", default="256")
    parser.add_argument("--limit", type=float, default=540)
    parser.add_argument("--attack")
    settings = parser.parse_args()
    rate = matrix_rate()
    print("# On one GPU\n")
    print(f"Made by `python {' '.join(map(shlex.quote, map(os.path.basename, sys.argv[:1])))} --batch {settings.batch}` on {torch.cuda.get_device_name()}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}. A bfloat16 product of square matrices does {rate:.0f} billion multiplications with an addition a second. Training is one inner epoch of mutual distillation, in bfloat16 and channels last.\n")
    print("| network | who | training, images/s | evaluation, images/s | share of the matrix rate |\n|---|---|---|---|---|")
    common = ["--batch", settings.batch, "--images", "16384", "--epochs", "5"]
    for model in sorted(Path(settings.models).glob("*.onnx")):
        peer = [sys.executable, "-W", "ignore", settings.peer, str(model), *common, "--device", "cuda", "--dtype", "bf16", "--channels-last"]
        ours = [settings.cmira, "bench", str(model), *common, "--device", "cuda:0", "--json"]
        contestants = [("cmira", ours), ("cmira, fp32", [*ours, "--precision", "fp32"]), ("PyTorch", peer), ("PyTorch, compiled", [*peer, "--compile"])]
        multiplications = None
        for name, command in contestants:
            found, why = run(command, settings.limit)
            if found is None:
                print(f"| {model.stem} | {name} | {why} | | |", flush=True)
                continue
            multiplications = found.get("cost", {}).get("multiplications", multiplications)
            train = found["train_images_per_s"]
            share = 3 * train * multiplications / 1e9 / rate if multiplications else float("nan")
            print(f"| {model.stem} | {name} | {train:.0f} | {found['eval_images_per_s']:.0f} | {100 * share:.0f} % |", flush=True)
    if settings.attack:
        command = [settings.cmira, "audit", *shlex.split(settings.attack), "--device", "cuda:0", "--json"]
        started = time.monotonic()
        found, why = run(command, settings.limit)
        seconds = time.monotonic() - started
        told = f"took {seconds:.0f} s: {json.dumps(found)}" if found else f"did not end within {seconds:.0f} s ({why}); its folder says how far it came"
        print(f"\nThe attack `cmira audit {settings.attack}` {told}")


if __name__ == "__main__":
    main()
