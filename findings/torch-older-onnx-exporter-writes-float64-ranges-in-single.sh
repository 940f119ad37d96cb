#!/bin/sh
# version: torch 2.15.0, onnxruntime 1.31.1, onnx 1.23.2, numpy 2.4.6
# guess: torch.arange(1, n + 1, dtype=torch.float64) is a float64 range in the file of torch.onnx.export(dynamo=False) too.
# what happens: where the end is a size of the input the range is written in float32, and so is all that is computed of
#     it; the output is float32 where torch's is float64. torch.arange(1, n + 1).double() is right.
# why it matters: numbers of tokens are sizes. What is drawn from positions in float64 (a large factor times a sine)
#     comes out as other numbers, so other tokens are paired, and nothing warns.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0 onnxruntime==1.31.1 onnx==1.23.2
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import numpy as np
import onnxruntime
import torch


class Thirds(torch.nn.Module):
    def __init__(self, typed):
        super().__init__()
        self.typed = typed

    def forward(self, x):
        end = x.shape[0] + 1
        places = torch.arange(1, end, dtype=torch.float64) if self.typed else torch.arange(1, end).double()
        return (places / 3).sin()


kinds = {}
for typed in (True, False):
    torch.onnx.export(Thirds(typed), (torch.zeros(3),), "m.onnx", dynamo=False, opset_version=18)
    (got,) = onnxruntime.InferenceSession("m.onnx").run(None, {})
    kinds[typed] = got.dtype
    off = np.abs(got - Thirds(typed)(torch.zeros(3)).numpy()).max()
    print("dtype=float64" if typed else ".double()", "->", got.dtype, "off by", off)
print("torch", torch.__version__, "onnxruntime", onnxruntime.__version__)
raise SystemExit(kinds != {True: np.dtype("float32"), False: np.dtype("float64")})
EOF
