"""Times ONNX Runtime on the images that `cmira bench` evaluates in as large batches: random ones.

    python runtime_bench.py MODEL.onnx --batch 128 --images 1024 --epochs 3 --threads 2

Prints one JSON line with eval_images_per_s, the median pass behind one that does not count.
"""

import argparse
import json
import statistics
import time

import numpy as np
import onnx
import onnxruntime


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    for name, value in (("--batch", 128), ("--images", 1024), ("--epochs", 3), ("--threads", 2)):
        parser.add_argument(name, type=int, default=value)
    settings = parser.parse_args()
    model = onnx.load(settings.model)
    # A model in training form computes batch statistics.
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            del node.output[1:]
            kept = [attribute for attribute in node.attribute if attribute.name != "training_mode"]
            del node.attribute[:]
            node.attribute.extend(kept)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    sides = [side for side in session.get_inputs()[0].shape[1:]]
    images = np.random.default_rng(0).standard_normal((settings.images, *sides), dtype=np.float32)
    count = settings.images // settings.batch * settings.batch
    rates = []
    for _ in range(settings.epochs + 1):
        started = time.perf_counter()
        for start in range(0, count, settings.batch):
            session.run(None, {name: images[start:start + settings.batch]})
        rates.append(count / (time.perf_counter() - started))
    print(json.dumps({"eval_images_per_s": statistics.median(rates[1:]), "onnxruntime": onnxruntime.__version__}))


if __name__ == "__main__":
    main()
