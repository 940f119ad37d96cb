#!/bin/sh
# version: torch 2.15.0, numpy 2.4.6
# guess: keeping ceil(0.7 * n) tokens, written in floats or as (7 * n + 9) // 10, compiles in the same time.
# what happens: under torch.compile(dynamic=True) on the CPU the sizes are formulas, one inside the other after each
#     cut, and inductor simplifies them for every loop: with floats inside that takes twice as long or more (three cuts:
#     64 against 15 to 21 seconds of processor time), and it grows with every cut.
# why it matters: pruning by a keep rate is written so, three times in a model. A small ViT of 12 blocks was not compiled
#     after ten minutes on a busy machine; in whole numbers it took six, unreduced two.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0
TORCHINDUCTOR_FORCE_DISABLE_CACHES=1 "$folder/venv/bin/python" - <<'EOF'
import math
import time

import torch
from torch import nn


def in_floats(n):
    return max(1, math.ceil(0.7 * n - 1e-6))


def in_whole_numbers(n):
    return (7 * n + 9) // 10


class Cutting(nn.Module):
    def __init__(self, kept):
        super().__init__()
        self.kept = kept
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(4))
        self.linears = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))

    def forward(self, x):
        for norm, linear in zip(self.norms, self.linears):
            y = norm(x)
            x = x + linear(torch.softmax(y @ y.transpose(1, 2), dim=-1) @ y)
            best = x.norm(dim=-1).argsort(dim=1, descending=True)[:, : self.kept(x.shape[1])]
            x = x.gather(1, best.unsqueeze(-1).expand(-1, -1, 32))
        return x.mean(dim=1)


print("torch", torch.__version__)
seconds = {}
for kept in (in_whole_numbers, in_floats, in_whole_numbers):  # the first also starts the compiler
    torch._dynamo.reset()
    start = time.process_time()
    torch.compile(Cutting(kept), dynamic=True)(torch.randn(2, 65, 32)).sum().backward()
    seconds[kept] = time.process_time() - start
    print(kept.__name__, f"{seconds[kept]:.1f} s")
raise SystemExit(not seconds[in_floats] > 1.7 * seconds[in_whole_numbers])
EOF
