#!/bin/sh
# version: safetensors 0.8.0, numpy 2.4.6, ml_dtypes 0.6.0
# guess: what safetensors.numpy.save takes, safetensors.numpy.load gives back; or save refuses it.
# what happens: arrays of ml_dtypes.bfloat16 and of its float8 types are saved under their right names, and load
#     raises KeyError: 'BF16'.
# why it matters: half-size weights for runtimes without torch. The file is fine for torch's side, so a check there
#     passes, and the server without torch fails at its start.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 safetensors==0.8.0 ml_dtypes==0.6.0
"$folder/venv/bin/python" - <<'EOF'
from importlib.metadata import version

import ml_dtypes
import numpy as np
from safetensors.numpy import load, save

refused = {}
for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
    data = save({"weight": np.ones(4, getattr(ml_dtypes, name))})
    try:
        load(data)
    except KeyError as error:
        refused[name] = str(error)
print("safetensors", version("safetensors"), "saved, and then refused by load:", refused)
raise SystemExit(refused != {"bfloat16": "'BF16'", "float8_e4m3fn": "'F8_E4M3'", "float8_e5m2": "'F8_E5M2'"})
EOF
