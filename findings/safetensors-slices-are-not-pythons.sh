#!/bin/sh
# version: safetensors 0.8.0, numpy 2.4.6
# guess: get_slice(name)[...] reads as NumPy's slices do: tensor[-1] works, so tensor[-3:] does, and an end beyond the
#     tensor is cut.
# what happens: [-1] works and [::2] works; [-3:] and [:-2] raise OverflowError, [8:20] of ten rows raises
#     SafetensorError, and the empty [5:3] raises SystemError from CPython's inside.
# why it matters: position embeddings are read in part: the patches without the prefix tokens, the last row, as many
#     rows as there are tokens left. Code tried on an array breaks on the file.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 safetensors==0.8.0
"$folder/venv/bin/python" - <<'EOF'
import tempfile
from importlib.metadata import version

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

rows = np.arange(10, dtype=np.float32)
seen = {}
with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
    save_file({"pos_embed": rows}, file.name)
    part = safe_open(file.name, "np").get_slice("pos_embed")
    for text, index in {
        "[-1]": -1, "[::2]": slice(None, None, 2), "[-3:]": slice(-3, None), "[:-2]": slice(None, -2),
        "[8:20]": slice(8, 20), "[5:3]": slice(5, 3),
    }.items():
        try:
            seen[text] = np.array_equal(part[index], rows[index])
        except Exception as error:
            seen[text] = type(error).__name__
print("safetensors", version("safetensors"), seen)
raise SystemExit(seen != {
    "[-1]": True, "[::2]": True, "[-3:]": "OverflowError", "[:-2]": "OverflowError", "[8:20]": "SafetensorError",
    "[5:3]": "SystemError",
})
EOF
