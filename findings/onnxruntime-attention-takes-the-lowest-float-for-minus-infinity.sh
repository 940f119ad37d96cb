#!/bin/sh
# version: onnxruntime 1.31.1, openvino 2026.4.1, onnx 1.23.2, numpy 2.4.6
# guess: a row of the mask that is the lowest float everywhere adds the same number to all scores, so softmax gives
#     even weights, as in torch, OpenVINO and onnx's reference.
# what happens: onnxruntime's Attention (opset 23) gives zeros for that row, as for -inf. From -3.4e38 upwards it
#     gives the mean.
# why it matters: transformers and timm write padding masks with finfo.min. Rows of padded or dropped tokens hold the
#     mean of the values in eager mode and zeros in the exported file; pooling over them, or a check of all rows,
#     differs by whole units.
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
from onnx.reference import ReferenceEvaluator

shape = [1, 1, 4, 8]
graph = helper.make_graph(
    [helper.make_node("Attention", ["q", "k", "v", "mask"], ["out"])],
    "attention",
    [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "qkv"]
    + [helper.make_tensor_value_info("mask", TensorProto.FLOAT, [4, 4])],
    [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
feed = dict(zip("qkv", np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)))
session = onnxruntime.InferenceSession(model.SerializeToString())
compiled = openvino.Core().compile_model(
    openvino.Core().read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
)
print("onnxruntime", onnxruntime.__version__, "openvino", version("openvino"), "onnx", version("onnx"))
mean = feed["v"].mean(2, keepdims=True)
zeros, means = [], []
for value in (np.finfo(np.float32).min, np.float32(-3.4e38)):
    feed["mask"] = np.full((4, 4), value)
    out = session.run(None, feed)[0]
    others = [ReferenceEvaluator(model).run(None, feed)[0], compiled(feed)[0]]
    print(f"mask {value:.7g}: onnxruntime {out[0, 0, 0, :3]}, mean of the values {mean[0, 0, 0, :3]}")
    zeros.append(not out.any())
    means.append(all(np.allclose(other, mean, atol=1e-5) for other in others))
raise SystemExit(not (zeros == [True, False] and all(means)))
EOF
