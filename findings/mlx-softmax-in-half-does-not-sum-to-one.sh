#!/bin/sh
# version: mlx 0.32.4, mlx-cpu 0.32.4, numpy 2.4.6
# guess: softmax and mean of bfloat16 or float16 are computed in float32 and rounded once, as in torch, JAX and NumPy.
#     The weights of a row sum to 1 within the rounding, about 0.1 %.
# what happens: on MLX's CPU the sum below the fraction line is kept in the type of the input. In bfloat16 it stops at a
#     few hundred: the weights of 577 random scores sum to 1.1 to 1.2, of 1,370 to 1.4 to 1.6, of 4,097 equal scores to
#     16 (float16: 2). precise=True and mx.fast.scaled_dot_product_attention are right. mx.mean in float16 is infinite
#     where the sum is above 65,504: for 196 tokens of 400.
# why it matters: attention that is written out, to score tokens by it, multiplies the values by these weights. The error
#     grows with the number of tokens, so fewer tokens seem to change, or to improve, what is only the sum. Pooling over
#     tokens in float16 gives infinity for the full model and a number for the reduced one.
# known: ml-explore/mlx#4178 documents `precise` (2026-08); the default and its size are as before.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 mlx==0.32.4 mlx-cpu==0.32.4
"$folder/venv/bin/python" - <<'EOF'
from importlib.metadata import version

import mlx.core as mx
import numpy as np

print("mlx", version("mlx"), mx.default_device())
mx.set_default_device(mx.cpu)


def sums(scores: mx.array, precise: bool = False) -> np.ndarray:
    return np.array(mx.softmax(scores, axis=-1, precise=precise).astype(mx.float32).sum(-1))


wrong, right = [], []
for tokens in (197, 577, 1370):
    scores = mx.array(np.random.default_rng(0).normal(size=(64, tokens))).astype(mx.bfloat16)
    wrong.append(sums(scores))
    right.append(sums(scores, precise=True))
    print(f"{tokens} scores, bfloat16: weights sum to {wrong[-1].min():.3f} to {wrong[-1].max():.3f}", end="; ")
    print(f"precise: {right[-1].min():.4f} to {right[-1].max():.4f}")
equal = [float(sums(mx.zeros((1, 4097), dtype=dtype))[0]) for dtype in (mx.bfloat16, mx.float16)]
means = [mx.mean(mx.full((tokens, 4), 400.0, dtype=mx.float16), axis=0)[0].item() for tokens in (196, 98)]
print("4,097 equal scores sum to", np.round(equal, 2), "in bfloat16 and float16; mean of 196 and 98 tokens:", means)
fine = all(np.abs(each - 1).max() < 2e-3 for each in right)
grows = wrong[1].min() > 1.05 and wrong[2].min() > 1.3 and np.allclose(equal, [16, 2], atol=0.1)
raise SystemExit(not (fine and grows and means[0] == float("inf") and abs(means[1] - 400) < 1))
EOF
