#!/bin/sh
# version: onnxruntime 1.31.1, onnx 1.23.2, numpy 2.4.6
# guess: a NaN among the scores is first (NumPy, torch) or last; the other places of TopK go to the best.
# what happens: it depends on where the NaN stands. With scores 0 to 196 and k = 2, a NaN at place 1 gives the tokens
#     0 and 1 (the lowest score and the NaN), at place 0 the tokens 0 and 196, at place 98 the NaN is left out.
# why it matters: one overflow in half precision and an exported pruner keeps the least important tokens. Logits stay
#     finite, nothing is logged, and whether it happens depends on the place in the picture.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1
"$folder/venv/bin/python" - <<'EOF'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

graph = helper.make_graph(
    [helper.make_node("TopK", ["scores", "k"], ["best", "index"])],
    "keep_best",
    [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 197])],
    [helper.make_tensor_value_info("index", TensorProto.INT64, [1, 2])],
    [numpy_helper.from_array(np.array([2]), "k")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString())
print("onnxruntime", onnxruntime.__version__)
kept = {}
for place in (0, 1, 98, 196):
    scores = np.arange(197, dtype=np.float32)[None]
    scores[0, place] = np.nan
    kept[place] = session.run(None, {"scores": scores})[0][0].tolist()
    print("NaN at", place, "kept", kept[place], "NumPy's two last of a sort:", np.argsort(scores[0])[-2:].tolist())
raise SystemExit(kept != {0: [0, 196], 1: [0, 1], 98: [196, 195], 196: [195, 194]})
EOF
