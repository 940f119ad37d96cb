#!/bin/sh
# version: opencv-python-headless 5.0.0.93, pillow 12.3.0, numpy 2.4.6
# guess: imread and imdecode read the same file alike.
# what happens: for a TIFF whose orientation swaps rows and columns imread returns None (and logs that its buffer was
#     replaced), imdecode of the same bytes returns the upright picture. The other four orientations are read by both.
# why it matters: evaluation sets from scanners and cameras. Loaders that skip None lose just the portrait pictures,
#     and a score on fewer images looks like a score.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 pillow==12.3.0 opencv-python-headless==5.0.0.93
"$folder/venv/bin/python" - <<'EOF'
import io
import os
import tempfile

os.environ["OPENCV_LOG_LEVEL"] = "OFF"

import cv2
import numpy as np
from PIL import Image

print("opencv", cv2.__version__)
read = {}
for orientation in range(1, 9):
    tag = Image.Exif()
    tag[0x0112] = orientation
    file = io.BytesIO()
    Image.new("RGB", (50, 30)).save(file, "TIFF", exif=tag)
    with tempfile.NamedTemporaryFile(suffix=".tiff") as on_disk:
        on_disk.write(file.getvalue())
        on_disk.flush()
        from_file = cv2.imread(on_disk.name)
    from_memory = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR)
    read[orientation] = (None if from_file is None else from_file.shape[:2], from_memory.shape[:2])
    print("orientation", orientation, "imread", read[orientation][0], "imdecode", read[orientation][1])
upright = {number: ((30, 50), (30, 50)) for number in range(1, 5)}
turned = {number: (None, (50, 30)) for number in range(5, 9)}
raise SystemExit(read != upright | turned)
EOF
