"""A model that a call must leave as it was."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Unchanged:
    """Fails unless the model computes the same with the same modules at the end of the block."""

    def __init__(self, model: VisionTransformer):
        self.model = model

    def __enter__(self) -> None:
        self.logits = self.model(IMAGES)
        self.modules, self.state = list(self.model.modules()), dict(self.model.__dict__)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            return
        assert all(mine is other for mine, other in zip(self.modules, self.model.modules(), strict=True))
        assert set(self.model.__dict__) == set(self.state)
        assert torch.equal(self.model(IMAGES), self.logits)
