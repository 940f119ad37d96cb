"""EViT on LV-ViT-Small for larger images: 272 pixels, keep rate 0.7 in blocks 4, 8 and 12.

Paper     EViT (Liang et al., ICLR 2022), Table 6b.
Expected  83.7 % top-1 (unreduced at 224 pixels: 83.3).
MACs      7.07 G (7.07 in the paper).
Cost      not stated; the paper trains on 2 A100 GPUs.
Run here  no.

LV-ViT's training settings. `label_maps` is the folder of label maps that the authors of LV-ViT released; with
--label_maps none each patch is told the image's label. The targets of fused tokens are the mean of their patches'. The
keep rate warms up as on DeiT.

    torchrun --nproc-per-node 8 -m vitrim train recipes/imagenet/evit_lvvit_small_high_resolution.py \
        --data imagenet --output out/evit_lvvit_small_high_resolution
"""

from dataclasses import replace

from vitrim.train.defaults import LVVIT

RECIPE = replace(
    LVVIT,
    img_size=272,
    method="evit",
    settings={"keep_rate": 0.7, "layers": [4, 8, 12]},
    keep_rate_start=10,
    keep_rate_epochs=100,
)
