#!/bin/sh
# version: torch 2.15.0, onnxruntime 1.31.1, onnx 1.23.2, onnxscript 0.7.2, numpy 2.4.6
# guess: a view to [batch, 0, channels] is valid in torch and with an open batch in the file too, as with a fixed one.
# what happens: torch.onnx.export writes Reshape to [-1, 0, channels] without allowzero, where 0 means "as the input has
#     it"; onnxruntime refuses the file when it is loaded. With a fixed batch the file loads and is right.
# why it matters: a block that merges or drops no token makes such rows; the export says nothing, and the error comes on
#     the machine where the file is used.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0 onnxruntime==1.31.1 onnx==1.23.2 onnxscript==0.7.2
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import onnxruntime
import torch


class TakesNoRows(torch.nn.Module):
    def forward(self, x):
        batch, tokens, channels = x.shape
        rows = torch.zeros(batch, 0, dtype=torch.long) + torch.arange(batch).unsqueeze(1) * tokens
        taken = x.reshape(batch * tokens, channels).index_select(0, rows.flatten()).view(batch, 0, channels)
        return x.sum(dim=1) + taken.sum(dim=1)


def loads(name, shapes):
    torch.onnx.export(
        TakesNoRows(), (torch.randn(2, 4, 3),), name, opset_version=18, dynamo=True, dynamic_shapes=shapes, verbose=False
    )
    try:
        onnxruntime.InferenceSession(name)
    except Exception as error:
        return str(error).strip().splitlines()[-1][-160:]
    return "loads"


print("torch", torch.__version__, "onnxruntime", onnxruntime.__version__)
fixed, free = loads("fixed.onnx", None), loads("open.onnx", ({0: torch.export.Dim("batch", min=1)},))
print("fixed batch:", fixed, "\nopen batch:", free)
raise SystemExit(fixed != "loads" or "0" not in free or free == "loads")
EOF
