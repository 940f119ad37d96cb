#!/bin/sh
# version: safetensors 0.8.0, numpy 2.4.6
# guess: a transposed view is saved as what it shows, or refused as torch's side of the library refuses it.
# what happens: safetensors.numpy writes the bytes as they lie in memory under the view's shape: load(save(a.T)) is
#     another matrix, without a word.
# why it matters: kernels from JAX or Keras are transposed before they go into a reduced ViT. The square ones (qkv of
#     one head, projections) keep their shape, load, and only the accuracy tells.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 safetensors==0.8.0
"$folder/venv/bin/python" - <<'EOF'
from importlib.metadata import version

import numpy as np
from safetensors.numpy import load, save

kernel = np.arange(9, dtype=np.float32).reshape(3, 3)
back = load(save({"weight": kernel.T}))["weight"]
copied = load(save({"weight": np.ascontiguousarray(kernel.T)}))["weight"]
print("safetensors", version("safetensors"))
print("saved", kernel.T.tolist())
print("loaded", back.tolist())
print("loaded after np.ascontiguousarray", copied.tolist())
raise SystemExit(not (np.array_equal(back, kernel) and np.array_equal(copied, kernel.T)))
EOF
