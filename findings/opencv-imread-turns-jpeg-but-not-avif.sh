#!/bin/sh
# version: opencv-python-headless 5.0.0.93, pyvips 3.2.0, pyvips-binary 8.18.7, pillow 12.3.0, numpy 2.4.6
# guess: OpenCV's imread turns a picture upright whatever its format, as it does for JPEG, PNG and WebP. In an AVIF file
#     the turn is a property of the image itself, so a decoder can hardly miss it.
# what happens: imread and imdecode of OpenCV turn JPEG, PNG and WebP, and leave the AVIF file of the same picture on
#     its side. Pillow leaves all four as they are stored, and ImageOps.exif_transpose turns all four. libvips is the
#     other way round: it turns AVIF by itself, and the others only by autorot().
# why it matters: when a data set is converted to AVIF to save space, every photograph taken upright is read on its
#     side. A ViT still answers, with other scores and other tokens kept, and the loss looks like that of compression.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 opencv-python-headless==5.0.0.93 pillow==12.3.0 \
    pyvips==3.2.0 pyvips-binary==8.18.7
"$folder/venv/bin/python" - <<'EOF'
import tempfile
from pathlib import Path

import cv2
import numpy as np
import PIL
import pyvips
from PIL import Image, ImageOps

print("opencv", cv2.__version__, "pillow", PIL.__version__, "libvips", [pyvips.version(part) for part in range(3)])
quarters = np.arange(4, dtype=np.uint8).reshape(2, 2) * 80
picture = Image.fromarray(np.kron(quarters, np.ones((20, 32), np.uint8))).convert("RGB")
quarter_turn = Image.Exif()
quarter_turn[0x0112] = 6
upright = np.asarray(picture.rotate(-90, expand=True)).astype(int)
seen = {}
with tempfile.TemporaryDirectory() as folder:
    for suffix in ("jpg", "png", "webp", "avif"):
        path = f"{folder}/picture.{suffix}"
        picture.save(path, exif=quarter_turn.tobytes(), quality=95)
        read = {
            "imread": cv2.imread(path),
            "imdecode": cv2.imdecode(np.frombuffer(Path(path).read_bytes(), np.uint8), cv2.IMREAD_COLOR),
            "Pillow": np.asarray(Image.open(path)),
            "exif_transpose": np.asarray(ImageOps.exif_transpose(Image.open(path))),
            "libvips": pyvips.Image.new_from_file(path).numpy(),
            "autorot": pyvips.Image.new_from_file(path).autorot().numpy(),
        }
        turned = [out.shape == upright.shape and np.abs(out - upright).mean() < 5 for out in read.values()]
        seen[suffix] = [bool(each) for each in turned]
        print(suffix, {name: "upright" if each else "on its side" for name, each in zip(read, turned)})
tagged = [True, True, False, True, False, True]
wanted = {"jpg": tagged, "png": tagged, "webp": tagged, "avif": [False, False, False, True, True, True]}
raise SystemExit(seen != wanted)
EOF
