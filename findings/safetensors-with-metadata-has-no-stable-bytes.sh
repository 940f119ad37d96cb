#!/bin/sh
# version: safetensors 0.8.0, numpy 2.4.6
# guess: the same tensors with the same metadata give the same bytes; tensors are sorted by the library so that files
#     are reproducible.
# what happens: entries of the metadata are written in a random order, another one at each call of one process: up to
#     six files for three entries. One entry is stable.
# why it matters: a reduced checkpoint that carries its method and keep rates as metadata has another checksum each
#     time it is saved. Caches, result files and releases that name weights by their hash see new weights.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 safetensors==0.8.0
"$folder/venv/bin/python" - <<'EOF'
import hashlib
from importlib.metadata import version

import numpy as np
from safetensors.numpy import save

tensors = {"weight": np.ones((2, 3), np.float32)}


def checksums(metadata):
    return {hashlib.sha256(save(tensors, metadata)).hexdigest()[:12] for _ in range(60)}


one = checksums({"format": "pt"})
three = checksums({"format": "pt", "method": "evit", "keep_rate": "0.7"})
print("safetensors", version("safetensors"))
print("60 saves with one entry:", len(one), "checksum; with three entries:", len(three), "checksums")
raise SystemExit(not (len(one) == 1 and len(three) > 1))
EOF
