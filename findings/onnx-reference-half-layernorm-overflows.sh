#!/bin/sh
# version: onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6
# guess: onnx's ReferenceEvaluator computes LayerNormalization and RMSNormalization in float32, as their stash_type =
#     1 (the default) asks for float16 input.
# what happens: it squares in float16. From 256 on the square is infinite, and a row with one such channel comes out
#     as zeros (with NumPy's overflow warning); onnxruntime is right.
# why it matters: ViTs have channels in the hundreds ("massive activations", mostly on the tokens that pruning is
#     about). A half-precision file that is right is told wrong by the specification's own evaluator.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1
"$folder/venv/bin/python" - <<'EOF'
import warnings
from importlib.metadata import version

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

warnings.simplefilter("ignore")
tokens = np.array([[300, -300, 200, 100]], np.float16)
print("onnx", version("onnx"), "onnxruntime", onnxruntime.__version__)
seen = []
for norm in ("LayerNormalization", "RMSNormalization"):
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1, 4]) for name in ("x", "y")]
    weight = numpy_helper.from_array(np.ones(4, np.float16), "weight")
    node = helper.make_node(norm, ["x", "weight"], ["y"], stash_type=TensorProto.FLOAT)
    graph = helper.make_graph([node], norm, info[:1], info[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    reference = ReferenceEvaluator(model).run(None, {"x": tokens})[0]
    runtime = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": tokens})[0]
    wide = tokens.astype(np.float32) - (tokens.astype(np.float32).mean() if norm[0] == "L" else 0)
    right = wide / np.sqrt((wide**2).mean())
    print(norm, "reference", reference[0], "onnxruntime", runtime[0], "right", right[0].round(3))
    seen.append(not reference.any() and np.allclose(runtime, right, atol=2e-3))
raise SystemExit(not all(seen))
EOF
