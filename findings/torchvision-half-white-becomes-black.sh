#!/bin/sh
# version: torchvision 0.29.2, torch 2.15.0, numpy 2.4.6
# guess: to_dtype(image, torch.uint8, scale=True) maps 0 to 0 and 1 to 255 for every float type.
# what happens: for float16 and bfloat16 1.0 becomes 0: 255.999 is rounded to 256 in half precision and wraps. 0.5 is
#     right, float32 is right, ToPILImage and save_image are right.
# why it matters: images kept in half precision for a fast model are turned back for pictures of the kept patches, for
#     a data set, for a second model. Whatever is saturated white comes back black, and only that.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0 torchvision==0.29.2
"$folder/venv/bin/python" - <<'EOF'
import torch
import torchvision
from torchvision.transforms.v2 import functional

print("torchvision", torchvision.__version__, "torch", torch.__version__)
seen = {}
for kind in (torch.float32, torch.bfloat16, torch.float16):
    image = torch.tensor([[[0, 0.5, 1]]], dtype=kind)
    seen[kind] = functional.to_dtype(image, torch.uint8, scale=True).flatten().tolist()
    print(kind, "0, 0.5, 1 ->", seen[kind])
black = [seen[kind][2] for kind in (torch.float16, torch.bfloat16)]
raise SystemExit(not (seen[torch.float32][2] == 255 and black == [0, 0]))
EOF
