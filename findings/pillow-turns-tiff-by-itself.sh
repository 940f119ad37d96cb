#!/bin/sh
# version: pillow 12.3.0, numpy 2.4.6
# guess: Image.open never turns a picture; orientation is the caller's business (ImageOps.exif_transpose) in every
#     format alike.
# what happens: a TIFF with orientation 6 is turned when its pixels are loaded, and its tag is removed. JPEG and PNG
#     are left as they are stored.
# why it matters: scanners and microscopes write TIFF, phones JPEG. A pipeline that leaves orientation alone, or reads
#     the tag first and turns the pixels itself, shows the model upright patches in one format and lying ones in the
#     other, from the same shot.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 pillow==12.3.0
"$folder/venv/bin/python" - <<'EOF'
import io

import numpy as np
import PIL
from PIL import Image

print("pillow", PIL.__version__)
orientation = Image.Exif()
orientation[0x0112] = 6
seen = {}
for kind in ("TIFF", "PNG", "JPEG"):
    file = io.BytesIO()
    Image.new("RGB", (50, 30)).save(file, kind, exif=orientation)
    image = Image.open(file)
    seen[kind] = (np.asarray(image).shape[:2], image.getexif().get(0x0112))
    print(kind, "stored as (30, 50), read as", seen[kind][0], "with orientation", seen[kind][1])
raise SystemExit(seen != {"TIFF": ((50, 30), None), "PNG": ((30, 50), 6), "JPEG": ((30, 50), 6)})
EOF
