#!/bin/sh
# version: torch 2.15.0, numpy 2.4.6
# guess: FlopCounterMode counts torch's own dynamically quantized linear layer as the float one (8,192 operations), or warns.
# what happens: it counts 0 and says nothing; get_total_flops() of a quantized transformer is that of its attention alone.
# why it matters: int8 and fewer tokens are compared by multiply-adds, and by this counter int8 wins at any accuracy.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0
"$folder/venv/bin/python" -W ignore - <<'EOF'
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count(model):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 64))
    return counter.get_total_flops()


plain = nn.Sequential(nn.Linear(64, 64))
quantized = torch.ao.quantization.quantize_dynamic(plain, {nn.Linear})
print("torch", torch.__version__, "float:", count(plain), "int8:", count(quantized))
raise SystemExit((count(plain), count(quantized)) != (8192, 0))
EOF
