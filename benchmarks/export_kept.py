"""Whether runtimes keep the same tokens as eager: where each patch ends up, written out by a graph made for this check.

    python benchmarks/export_kept.py --routes onnx openvino --images 200

The model is the one that comes with vitrim, on its own test images. Its graph gives, beside the logits, the token that
holds each patch after the last block. Rows are appended to results/export_kept_torch<version>_<date>.csv.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from export_stability import DEFAULT, TOLERANCE, reduced, some_images
from torch import Tensor, nn

import vitrim
from rows import RESULTS, append
from vitrim.backbones.reader import find_stack
from vitrim.core.tokens import Tokens
from vitrim.export.card import versions
from vitrim.export.route import ROUTES, find_route

BATCH_SIZE = 8


class WithSources(nn.Module):
    """A reduced model whose logits are followed by the index of the token that holds each patch: [B, K + P]."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x_BCHW: Tensor) -> Tensor:
        found = find_stack(self.model)
        assert found is not None
        outbox: list[Tokens] = []
        found.stack.publish_into(outbox, traced=True)
        try:
            logits_BK = self.model(x_BCHW)
        finally:
            found.stack.publish_into(None)
        source_BP = outbox[-1].source_BP
        assert source_BP is not None
        return torch.cat([logits_BK, source_BP.to(logits_BK.dtype)], dim=1)


def main() -> None:
    options = parse()
    images = some_images(DEFAULT, options.images)
    num_classes = vitrim.load_model(DEFAULT)(images[:1]).shape[1]
    for name in options.routes:
        route = find_route(name)
        for method in options.methods:
            model = WithSources(reduced(DEFAULT, method)).eval()
            with tempfile.TemporaryDirectory() as folder, torch.no_grad():
                path = Path(folder) / f"model{route.suffix}"
                route.write(model, images[:2].clone(), path)
                run = route.load(path)
                parts = torch.split(images, BATCH_SIZE)
                expected, got = torch.cat([model(part) for part in parts]), torch.cat([run(part) for part in parts])
            other_I = (expected != got)[:, num_classes:].any(dim=1)
            apart_I = (expected - got)[:, :num_classes].abs().amax(dim=1) > TOLERANCE
            row = {
                "model": DEFAULT,
                "method": method,
                "route": name,
                "images": len(images),
                "other_tokens": int(other_I.sum()),
                "logits_apart": int(apart_I.sum()),
                "versions": " ".join(f"{library} {version}" for library, version in versions(route).items()),
            }
            print(*row.values(), sep="  ", flush=True)
            append("export_kept", [row], options.results)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--routes", nargs="+", choices=ROUTES, default=["onnx", "openvino", "executorch"])
    parser.add_argument("--methods", nargs="+", default=["evit", "token_mergence", "beyond_attentive", "tome"])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
