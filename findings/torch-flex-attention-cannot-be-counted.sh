#!/bin/sh
# version: torch 2.15.0, numpy 2.4.6
# guess: FlopCounterMode counts flex_attention, since its registry has a formula for it.
# what happens: uncompiled, under the counter, flex_attention raises a RuntimeError about a fullgraph that found no compiled
#     frames. The same call runs without the counter. Inside torch.compiler.set_stance("force_eager") it is counted.
# why it matters: fewer tokens are sold by multiply-adds, and vision models take up flex_attention for masks and windows.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0
"$folder/venv/bin/python" - <<'EOF'
import torch
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.flop_counter import FlopCounterMode

print("torch", torch.__version__)
q = torch.randn(1, 3, 64, 64)
print("alone:", tuple(flex_attention(q, q, q).shape))
try:
    with FlopCounterMode(display=False):
        flex_attention(q, q, q)
    raised = ""
except RuntimeError as error:
    raised = str(error).splitlines()[0]
print("under the counter:", raised or "runs")
with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
    flex_attention(q, q, q)
print("with force_eager:", counter.get_total_flops(), "operations, 4 N N D H are", 4 * 64 * 64 * 64 * 3)
assert raised
assert counter.get_total_flops() == 4 * 64 * 64 * 64 * 3
EOF
