#!/bin/sh
# version: torch 2.15.0, onnxruntime 1.31.1, onnx 1.23.2, numpy 2.4.6
# guess: torch.eye(n, dtype=torch.bool) is written by torch.onnx.export(dynamo=False) as what onnxruntime can run: ONNX's
#     EyeLike takes bool.
# what happens: the file is valid and does not load: onnxruntime has no EyeLike for bool. Two ranges that are compared
#     give the same matrix and run.
# why it matters: clustering of tokens masks the distance of each to itself in just that way.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0 onnxruntime==1.31.1 onnx==1.23.2
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import onnx
import onnxruntime
import torch


class Masked(torch.nn.Module):
    def __init__(self, eye):
        super().__init__()
        self.eye = eye

    def forward(self, x):
        place = torch.arange(x.shape[1])
        own = torch.eye(x.shape[1], dtype=torch.bool) if self.eye else place.unsqueeze(1) == place
        return x.masked_fill(own, 0.0)


said = {}
for eye in (True, False):
    torch.onnx.export(Masked(eye), (torch.randn(2, 4, 4),), "m.onnx", dynamo=False, opset_version=18)
    onnx.checker.check_model("m.onnx")
    try:
        onnxruntime.InferenceSession("m.onnx")
        said[eye] = "loads"
    except Exception as error:
        said[eye] = str(error).strip().splitlines()[-1][-120:]
    print("eye" if eye else "compared ranges", "->", said[eye])
print("torch", torch.__version__, "onnxruntime", onnxruntime.__version__)
raise SystemExit(said[False] != "loads" or "EyeLike" not in said[True])
EOF
