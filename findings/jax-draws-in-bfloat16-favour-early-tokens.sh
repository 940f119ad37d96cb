#!/bin/sh
# version: jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6
# guess: jax.random.categorical and jax.random.bernoulli draw in float32 inside, whatever the type of the logits or of
#     the probability, as torch.multinomial and torch.bernoulli do. Equal logits give equal shares.
# what happens: both draw their noise in the type of the input. In bfloat16 a uniform number has 128 values, so the
#     largest Gumbel noise of a row is a tie in 58 % of the rows, and a tie goes to the first. Of 196 equal logits the
#     first half is drawn in 68 %, the first ten in 9.5 % (5.1 % would be even). bernoulli(0.001) fires at 0.77 %. float16
#     is off by less. mode="high" mends both; float32 is right.
# why it matters: tokens are sampled by their scores, and dropped at random, in models that run in bfloat16. The first
#     patches are the top rows of the image, so they are kept too often, in training and in evaluation.
# known: jax-ml/jax#30879 (closed) and #28130 (mode="high", for small probabilities); the default is as before.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 jax==0.10.2 jaxlib==0.10.2
"$folder/venv/bin/python" - <<'EOF'
import jax
import jax.numpy as jnp

print("jax", jax.__version__)
key = jax.random.key(0)
seen = {}
for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
    for mode in (None, "high"):
        drawn = jax.random.categorical(key, jnp.zeros((50_000, 196), dtype), mode=mode)
        rate = jax.random.bernoulli(key, dtype(0.001), (1_000_000,), mode=mode or "low").mean().item()
        seen[dtype.__name__, mode] = [(drawn < 98).mean().item(), (drawn < 10).mean().item(), rate]
        shares = [round(share, 4) for share in seen[dtype.__name__, mode]]
        print(f"{dtype.__name__}, mode {mode}: first half, first ten of 196, bernoulli of 0.001: {shares}")
off = seen["bfloat16", None]
even = [seen["float32", None], seen["float32", "high"], seen["bfloat16", "high"]]
fine = all(abs(half - 0.5) < 0.02 and abs(ten - 10 / 196) < 0.01 for half, ten, _ in even)
raise SystemExit(not (fine and off[0] > 0.65 and off[1] > 0.09 and off[2] > 0.006))
EOF
