#!/bin/sh
# version: kornia-rs 0.2.0, pillow 12.3.0, numpy 2.4.6
# guess: one resize function has one rule: either all its modes smooth before they shrink, or none does.
# what happens: "bicubic" and "lanczos" are Pillow's to a few levels, smoothing included; "bilinear" takes four
#     neighbours and aliases: on fine noise shrunk 8 times its spread is 6 times that of Pillow's bilinear.
# why it matters: a faster decoder and resizer is put in front of a faster model. Choosing the mode by the model's
#     config (bilinear for some, bicubic for others) changes which patches look important for some models only.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 pillow==12.3.0 kornia-rs==0.2.0
"$folder/venv/bin/python" - <<'EOF'
from importlib.metadata import version

import kornia_rs
import numpy as np
from PIL import Image

noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
print("kornia-rs", version("kornia-rs"))
ratio = {}
for mode, like in (("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC), ("lanczos", Image.LANCZOS)):
    ours = kornia_rs.resize(noise, (64, 64), mode).std()
    pillow = np.asarray(Image.fromarray(noise).resize((64, 64), like)).std()
    ratio[mode] = ours / pillow
    print(f"{mode}: standard deviation {ours:.1f}, Pillow {pillow:.1f}")
raise SystemExit(not (ratio["bilinear"] > 3 and abs(ratio["bicubic"] - 1) < 0.1 and abs(ratio["lanczos"] - 1) < 0.1))
EOF
