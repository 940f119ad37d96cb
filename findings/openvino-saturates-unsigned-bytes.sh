#!/bin/sh
# version: openvino 2026.4.1, onnxruntime 1.31.1, onnx 1.23.2, numpy 2.4.6
# guess: Add, Sub and Mul of uint8 wrap at 256, as in NumPy, torch and onnxruntime: 200 + 100 = 44 and 20 - 100 = 176.
# what happens: OpenVINO's CPU device stops at the ends of the range: 255 and 0; int8 likewise (100 + 100 = 127,
#     others -56).
# why it matters: masks, token sizes and pixels are kept in bytes to save room. A wrap that a test against onnxruntime
#     has accepted, such as the distance of two bytes, is another number on the other runtime.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 openvino==2026.4.1
"$folder/venv/bin/python" - <<'EOF'
from importlib.metadata import version

import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper


def both(operator, kind, left, right):
    """What onnxruntime and OpenVINO make of one pair of bytes."""
    value = getattr(TensorProto, kind.upper())
    a, b, out = (helper.make_tensor_value_info(name, value, [1]) for name in ("a", "b", "out"))
    graph = helper.make_graph([helper.make_node(operator, ["a", "b"], ["out"])], operator, [a, b], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    feed = {"a": np.array([left], kind), "b": np.array([right], kind)}
    one = onnxruntime.InferenceSession(model).run(None, feed)[0]
    two = openvino.Core().compile_model(openvino.Core().read_model(model), "CPU")(feed)[0]
    return int(one[0]), int(two[0])


print({name: version(name) for name in ("onnxruntime", "openvino")})
cases = {
    ("Add", "uint8", 200, 100): (44, 255),
    ("Sub", "uint8", 20, 100): (176, 0),
    ("Mul", "uint8", 20, 100): (208, 255),
    ("Add", "int8", 100, 100): (-56, 127),
}
seen = {case: both(*case) for case in cases}
for case, pair in seen.items():
    print(*case, "onnxruntime", pair[0], "openvino", pair[1])
raise SystemExit(seen != cases)
EOF
