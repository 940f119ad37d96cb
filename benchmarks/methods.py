"""The methods to measure, by their names in tables."""

from __future__ import annotations

import vitrim

METHODS: dict[str, vitrim.Method] = {
    "nothing reduced (EViT 1.0)": vitrim.EViT(keep_rate=1.0),
    "EViT 0.7": vitrim.EViT(keep_rate=0.7),
    "EViT 0.7, no fusion": vitrim.EViT(keep_rate=0.7, fuse=False),
    "TM 0.7": vitrim.TokenMergence(keep_rate=0.7),
    "BAT 0.7": vitrim.BeyondAttentive(keep_rate=0.7),
    "ToMe r=11": vitrim.ToMe(r=11),
    "ToMe r=13": vitrim.ToMe(r=13),
    "EViT 0.5": vitrim.EViT(keep_rate=0.5),
}
LEARNED: dict[str, vitrim.Method] = {"METR over EViT 0.7": vitrim.METR(method=vitrim.EViT(keep_rate=0.7))}
