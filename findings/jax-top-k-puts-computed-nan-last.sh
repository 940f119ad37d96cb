#!/bin/sh
# version: jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6
# guess: top_k treats every NaN alike, as the largest value, as jnp.sort, jnp.argsort and jnp.argmax do; and 0.0 and -0.0
#     are a tie, which goes to the lower index.
# what happens: jax.lax.top_k orders floats by sign and bits. jnp.nan has no sign and comes first. The NaN that an x86
#     processor computes (0 / 0, inf - inf in a softmax, the root of a negative number) has one and comes last, below
#     -inf. And 0.0 is above -0.0: scores of both signs times a mask of zeros are no tie.
# why it matters: tokens are kept by top_k. A test with jnp.nan shows that a NaN score is kept and seen in the output; in
#     a real run the same token is dropped without a trace. Scores multiplied by a keep mask are ranked by their sign.
#     On ARM the computed NaN has no sign.
# known: jax-ml/jax#6443 (jnp.sort was mended), openxla/xla#48119 (the order of the bits is meant).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 jax==0.10.2 jaxlib==0.10.2
"$folder/venv/bin/python" - <<'EOF'
import platform

import jax
import jax.numpy as jnp

print("jax", jax.__version__, platform.machine())
scores = jnp.array([0.2, 0.4, 0.3, 0.1])
zero = jnp.array([1.0, 0.0, 1.0, 1.0])
cases = {
    "jnp.nan at place 1": jnp.where(zero == 0, jnp.nan, scores),
    "0 / 0 at place 1": scores * zero / zero,
    "softmax of -inf at place 1": jnp.where(zero == 0, jax.nn.softmax(jnp.full(4, -jnp.inf)), scores),
    "0 times negative, positive, negative, positive": jnp.array([-0.2, 0.4, -0.3, 0.1]) * 0.0,
}
seen = {}
for name, values in cases.items():
    kept = jax.lax.top_k(values, 2)[1].tolist()
    sorted_last = jnp.argsort(values)[-1].item()
    seen[name] = (kept, sorted_last)
    print(f"{name}: {values}, top_k keeps {kept}, argsort's last {sorted_last}, argmax {jnp.argmax(values)}")
computed = ([2, 0], 1) if platform.machine() == "x86_64" else ([1, 2], 1)
raise SystemExit(list(seen.values()) != [([1, 2], 1), computed, computed, ([1, 3], 3)])
EOF
