#!/bin/sh
# version: pillow 12.3.0, opencv-python-headless 5.0.0.93, numpy 2.4.6
# guess: Image.BOX averages the area under each output pixel, as OpenCV's INTER_AREA does: every input pixel counts
#     the same in total.
# what happens: at a ratio that is no whole number each pixel counts fully or not at all for an output pixel. From 16
#     to 10 a pixel weighs 0.8 or 1.6 in total; INTER_AREA gives 1 to all.
# why it matters: attention maps, saliency and masks are brought from one patch grid to another (16 to 10, 37 to 16)
#     to say which tokens matter. One row of patches gets twice the say of its neighbour.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 pillow==12.3.0 opencv-python-headless==5.0.0.93
"$folder/venv/bin/python" - <<'EOF'
import cv2
import numpy as np
import PIL
from PIL import Image

print("pillow", PIL.__version__, "opencv", cv2.__version__)
impulses = np.eye(16, dtype=np.float32)
box = [np.asarray(Image.fromarray(row[None]).resize((10, 1), Image.BOX)).sum() * 16 / 10 for row in impulses]
area = [cv2.resize(row[None], (10, 1), interpolation=cv2.INTER_AREA).sum() * 16 / 10 for row in impulses]
print("BOX, total weight of each pixel: ", np.round(box, 2).tolist())
print("INTER_AREA:                      ", np.round(area, 2).tolist())
raise SystemExit(not (np.allclose(sorted(set(np.round(box, 3))), [0.8, 1.6]) and np.allclose(area, 1, atol=1e-3)))
EOF
