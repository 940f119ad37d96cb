#!/bin/sh
# version: onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6
# guess: LpNormalization with p = 1 divides by the sum of absolute values in onnx's ReferenceEvaluator too.
# what happens: it divides by the plain sum: [-3, 4, 0] stays [-3, 4, 0], for the sum is 1. onnxruntime gives [-0.43,
#     0.57, 0]. p = 2 is right in both.
# why it matters: scores and keys are normalised before tokens are ranked or matched. On keys, which have both signs,
#     the reference gives other norms and other pairs than the runtime, and it is the reference that is wrong.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1
"$folder/venv/bin/python" - <<'EOF'
from importlib.metadata import version

import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("x", "y")]
x = np.array([[-3, 4, 0]], np.float32)
outputs = {}
for p in (1, 2):
    graph = helper.make_graph([helper.make_node("LpNormalization", ["x"], ["y"], p=p, axis=1)], "norm", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    reference = ReferenceEvaluator(model).run(None, {"x": x})[0]
    runtime = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    outputs[p] = reference, runtime
    print("p =", p, "onnx", version("onnx"), reference[0], "onnxruntime", onnxruntime.__version__, runtime[0])
wrong = np.allclose(outputs[1][0], x) and np.allclose(outputs[1][1], x / 7)
raise SystemExit(not (wrong and np.allclose(*outputs[2])))
EOF
