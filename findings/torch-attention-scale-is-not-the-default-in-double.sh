#!/bin/sh
# version: torch 2.15.0, numpy 2.4.6
# guess: scaled_dot_product_attention gives the same bits with scale=head_dim ** -0.5 as with its default scale.
# what happens: in float64 it does not, at a head of 8 channels: the default is 1 / sqrt(8), and 8 ** -0.5 differs from it in the
#     last place. In float32 both round to the same number.
# why it matters: timm's blocks hold the power as `scale` and let torch take its default, so whoever rebuilds a block from its
#     attributes, as every method that drops tokens does, is off by 1e-16 when checked in double precision.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0
"$folder/venv/bin/python" - <<'EOF'
import math

import torch
from torch.nn.functional import scaled_dot_product_attention as attention

print("torch", torch.__version__)
print("8 ** -0.5 =", 8**-0.5, " 1 / sqrt(8) =", 1 / math.sqrt(8))
differs = {}
for dtype in (torch.float64, torch.float32):
    q, k, v = torch.randn(3, 1, 3, 26, 8, dtype=dtype, generator=torch.Generator().manual_seed(0)).unbind(0)
    default, given = attention(q, k, v), attention(q, k, v, scale=8**-0.5)
    differs[dtype] = not torch.equal(default, given)
    print(dtype, "largest difference", (default - given).abs().max().item())
assert differs == {torch.float64: True, torch.float32: False}
EOF
