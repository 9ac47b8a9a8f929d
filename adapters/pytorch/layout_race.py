"""Times training of one network in two layouts: as PyTorch writes it (NCHW), and as TensorFlow's exporters do before anything is optimised,
with channels last everywhere and a pair of Transposes around every convolution.

    python layout_race.py CMIRA ROUNDS OUT > docs/results/layout.md

CMIRA is the built binary (release); files are written to OUT. What is timed is `cmira unlearn --method GA`: forward and backward passes and
steps of SGD on drawn images, with evaluations between. The two run in turn.
"""

import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import onnx
import torch
from onnx import helper
from zoo import resnet18_cifar

IMAGES, EPOCHS = 200, 4


def export(path):
    torch.manual_seed(1)
    torch.onnx.export(
        resnet18_cifar().eval(), (torch.zeros(2, 3, 32, 32),), path, dynamo=False, opset_version=13, input_names=["images"], output_names=["logits"],
        training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False, dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
    )


def channels_last(source, target):
    """Turns the values between convolutions around; BatchNormalization stays between the Transposes of its convolution."""
    model = onnx.load(source)
    graph, nodes, turned = model.graph, [], 0
    read = {name: node for node in graph.node for name in node.input}
    for node in graph.node:
        if node.op_type == "Conv":
            nodes.append(helper.make_node("Transpose", [node.input[0]], [f"{node.output[0]}/before"], perm=[0, 3, 1, 2]))
            node.input[0] = f"{node.output[0]}/before"
            turned += 1
        if node.op_type in ("BatchNormalization", "GlobalAveragePool"):
            name = node.output[0]
            if node.op_type == "GlobalAveragePool":
                nodes.append(helper.make_node("Transpose", [node.input[0]], [f"{name}/before"], perm=[0, 3, 1, 2]))
                node.input[0] = f"{name}/before"
                nodes.append(node)
                continue
            node.output[0] = f"{name}/inside"
            nodes += [node, helper.make_node("Transpose", [f"{name}/inside"], [name], perm=[0, 2, 3, 1])]
            continue
        assert node.op_type != "Conv" or read[node.output[0]].op_type == "BatchNormalization"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    dims = graph.input[0].type.tensor_type.shape.dim
    dims[1].dim_value, dims[2].dim_value, dims[3].dim_value = 32, 32, 3
    onnx.checker.check_model(model)
    onnx.save(model, target)
    return turned


def run(*command):
    started = time.perf_counter()
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - started


def main():
    cmira, rounds, out = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    export(out / "nchw.onnx")
    convolutions = channels_last(out / "nchw.onnx", out / "nhwc.onnx")
    if not (out / "drawn").exists():
        run(cmira, "data", "draw", out / "drawn", "--train-per-class", IMAGES // 10, "--test-per-class", 1, "--quiet")
    taken = {"nchw": [], "nhwc": []}
    for _ in range(rounds):
        for layout, times in taken.items():
            # A rate so small that nothing changes: both do the same work.
            times.append(run(
                cmira, "unlearn", "--model", out / f"{layout}.onnx", "--method", "GA", "--data", out / "drawn/train", "--ga-rates", "0.0000000001", "--margin", "100",
                "--forget-share", "1", "--forget-classes", ",".join(sorted(p.name for p in (out / "drawn/train").iterdir() if p.is_dir())[:9]),
                "--epochs", EPOCHS, "--out", out / "unlearned.onnx", "--device", "cpu", "--threads", os.cpu_count(), "--quiet",
            ))
    medians = {layout: statistics.median(times) for layout, times in taken.items()}
    print("# The cost of a layout\n")
    print(
        f"Made by `python adapters/pytorch/layout_race.py target/release/cmira {rounds} OUT` on {platform.machine()} with {os.cpu_count()} cores. ResNet18 for 32x32 images, {EPOCHS} epochs of gradient"
        f" ascent on {IMAGES * 9 // 10} of {IMAGES} images in batches of 64, evaluations included; medians of {rounds} rounds, the two in turn.\n"
    )
    print("| file | seconds | of the first |\n|---|---|---|")
    for layout, what in (("nchw", "as PyTorch writes it"), ("nhwc", f"channels last, {convolutions} convolutions between Transposes")):
        print(f"| {what} | {medians[layout]:.1f} | {medians[layout] / medians['nchw']:.2f} |")


if __name__ == "__main__":
    main()
