"""Images and a model for the examples: those in the package, or your own."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import vitrim
from vitrim.models.embedded import MODEL_NAME, demo_images


def parser(text: str | None) -> argparse.ArgumentParser:
    """The options that all examples have."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", default=MODEL_NAME, help="name of a timm model, or a saved folder")
    made.add_argument("--checkpoint", type=Path, help="its weights, .safetensors or .pth; else timm's pretrained ones")
    made.add_argument("--data", type=Path, help="folder with labels.csv, or one sub-folder of images per class")
    made.add_argument("--limit", type=int, help="use so many images, evenly spread over the classes")
    made.add_argument(
        "--methods", nargs="+", default=["evit", "evit-nofuse", "token_mergence", "beyond_attentive", "tome"]
    )
    made.add_argument("--keep-rates", nargs="+", type=float, default=[0.5])
    made.add_argument("--batch-size", type=int, default=100)
    return made


def load(options: argparse.Namespace) -> tuple[nn.Module, list[Tensor], Tensor]:
    """The model in eval mode, batches of images [B, C, H, W], and the class of each image."""
    model = vitrim.load_model(options.model, options.checkpoint).eval()
    if options.data is None and options.model != MODEL_NAME:
        raise SystemExit("pass --data FOLDER: images with a labels.csv, or one sub-folder of images per class.")
    with tempfile.TemporaryDirectory() as place:
        folder = options.data or demo_images(Path(place) / "images")
        batches = list(vitrim.load_images(model, folder, limit=options.limit, batch_size=options.batch_size))
    return model, [batch.x_BCHW for batch in batches], torch.cat([batch.labels_B for batch in batches])


def configurations(model: nn.Module, options: argparse.Namespace) -> dict[str, vitrim.Method | None]:
    """By name the methods to compare, the unreduced model first; ToMe at the multiply-adds of each keep rate."""
    found: dict[str, vitrim.Method | None] = {"unreduced": None}
    for rate in options.keep_rates:
        for name in options.methods:
            found[f"{name} {rate:g}"] = vitrim.method_for_keep_rate(model, name, rate)
    return found


def apply(model: nn.Module, method: vitrim.Method | None) -> nn.Module:
    """The same model, reduced by the method or with all its tokens."""
    return vitrim.restore(model) if method is None else vitrim.reduce_tokens(model, method)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
