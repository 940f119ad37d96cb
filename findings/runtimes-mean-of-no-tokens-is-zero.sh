#!/bin/sh
# version: onnxruntime 1.31.1, openvino 2026.4.1, onnx 1.23.2, numpy 2.4.6
# guess: ReduceMean over an axis of length 0 is 0 / 0, NaN, as in NumPy, torch and onnx's reference.
# what happens: onnxruntime and OpenVINO give 0.
# why it matters: the mean of the dropped tokens, of a window, of an image's kept patches, where an image drops or
#     keeps none. Eager mode shows the hole as NaN; the exported file puts a token of zeros into the sequence, and the
#     answer looks like any other.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 openvino==2026.4.1
"$folder/venv/bin/python" - <<'EOF'
import warnings
from importlib.metadata import version

import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

warnings.simplefilter("ignore")
graph = helper.make_graph(
    [helper.make_node("ReduceMean", ["dropped", "axis"], ["mean"], keepdims=0)],
    "mean",
    [helper.make_tensor_value_info("dropped", TensorProto.FLOAT, [2, "tokens", 4])],
    [helper.make_tensor_value_info("mean", TensorProto.FLOAT, [2, 4])],
    [numpy_helper.from_array(np.array([1]), "axis")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
feed = {"dropped": np.zeros((2, 0, 4), np.float32)}
binary = model.SerializeToString()
means = {
    "onnxruntime": onnxruntime.InferenceSession(binary).run(None, feed)[0],
    "openvino": openvino.Core().compile_model(openvino.Core().read_model(binary), "CPU")(feed)[0],
    "onnx": ReferenceEvaluator(model).run(None, feed)[0],
}
for name, mean in means.items():
    print(name, version(name), mean[0])
zero = not means["onnxruntime"].any() and not means["openvino"].any()
raise SystemExit(not (zero and np.isnan(means["onnx"]).all()))
EOF
