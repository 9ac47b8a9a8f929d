"""Writes the official ONNX test cases as folders, from the onnx package's own sources of them.

Arguments: PACKAGES (a directory that holds onnx and what it needs), OUT. Prints the case's name as each is written.

    OUT/KIND/CASE/model.onnx
    OUT/KIND/CASE/tolerance.txt                  relative and absolute tolerance
    OUT/KIND/CASE/test_data_set_N/input_I.pb     values in the order of the graph's inputs that are no initializers
    OUT/KIND/CASE/test_data_set_N/output_I.pb

The kinds `simple`, `pytorch-operator` and `pytorch-converted` lie in the package as such folders. The `node` cases exist only
while Python runs. A `light` case, an image classifier with constant weights, lies there as a model and its outputs; its inputs
are what the package's own test runner feeds.
"""

import pathlib
import shutil
import signal
import sys
import warnings

signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
sys.path.insert(0, sys.argv[1])
warnings.filterwarnings("ignore")  # about overflows and zero divisions that cases provoke on purpose

import numpy as np  # noqa: E402
import onnx  # noqa: E402
from onnx import numpy_helper  # noqa: E402
from onnx.backend.test.loader import load_model_tests  # noqa: E402
from onnx.backend.test.runner import Runner  # noqa: E402


def as_proto(value, info):
    """A case's value in the form that the graph declares for it."""
    if hasattr(value, "SerializeToString"):
        return value
    form = info.type.WhichOneof("value")
    if form == "sequence_type":
        return numpy_helper.from_list([np.asarray(element) for element in value], info.name)
    if form == "optional_type":
        return numpy_helper.from_optional(value, info.name)
    return numpy_helper.from_array(np.asarray(value), info.name)


def fed_inputs(graph):
    initialized = {tensor.name for tensor in graph.initializer}
    return [info for info in graph.input if info.name not in initialized]


def write_values(folder, role, values, infos):
    folder.mkdir(parents=True, exist_ok=True)
    if len(values) > len(infos):
        raise ValueError(f"{len(values)} {role} values for {len(infos)} in the graph")
    for index, (value, info) in enumerate(zip(values, infos)):
        (folder / f"{role}_{index}.pb").write_bytes(as_proto(value, info).SerializeToString())


def write_node_case(case, folder):
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(case.model.SerializeToString())
    graph = case.model.graph
    for index, (inputs, outputs) in enumerate(case.data_sets):
        values = folder / f"test_data_set_{index}"
        fed = fed_inputs(graph)
        write_values(values, "input", inputs, fed if len(fed) == len(inputs) else list(graph.input))
        write_values(values, "output", outputs, list(graph.output))


def write_light_case(case, folder):
    source = pathlib.Path(onnx.__file__).parents[1] / case.url
    graph = onnx.load(source).graph
    values = folder / "test_data_set_0"
    infos = fed_inputs(graph)
    write_values(values, "input", [Runner.generate_dummy_data(info) for info in infos], infos)
    shutil.copyfile(source, folder / "model.onnx")
    for index in range(len(graph.output)):
        shutil.copyfile(source.with_name(f"{source.stem}_output_{index}.pb"), values / f"output_{index}.pb")


def copy_case(case, folder):
    shutil.copytree(case.model_dir, folder)


WRITERS = {
    # The loader's name, the folder's name, and how its cases are written.
    "node": ("node", write_node_case),
    "simple": ("simple", copy_case),
    "pytorch-operator": ("pytorch-operator", copy_case),
    "pytorch-converted": ("pytorch-converted", copy_case),
    "real": ("light", write_light_case),
}


def main(out):
    failed = []
    for source, (kind, write) in WRITERS.items():
        for case in sorted(load_model_tests(kind=source), key=lambda case: case.name):
            folder = out / kind / case.name
            try:
                write(case, folder)
                (folder / "tolerance.txt").write_text(f"{case.rtol} {case.atol}\n")
            except OSError:
                raise
            except Exception as error:  # one case that cannot be written must not hide the others
                shutil.rmtree(folder, ignore_errors=True)
                failed.append(f"{kind}/{case.name}: {type(error).__name__}: {error}")
            else:
                print(f"{kind}/{case.name}", flush=True)
    for failure in failed:
        print(failure, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[2])))
