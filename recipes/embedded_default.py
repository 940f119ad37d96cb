"""Train and export the embedded default model, ``vitrim_fashion_tiny``.

A plain 12-block ViT (1.36 M parameters, 196 patch tokens) on Fashion-MNIST, with no
token reduction from vitrim. timm's PatchDropout makes the first epochs affordable on a
CPU; the last ones see more, then all, of the patches.
"""

import argparse
import gzip
import math
import os
import time
from pathlib import Path

import numpy as np
import timm
import torch
from timm.layers import set_fused_attn
from torch.nn import functional as F

from vitrim.models import embedded

DEBIAN_DATA = Path("/usr/share/datasets/fashion-mnist")
SEED = 0
BATCH = 128
PEAK_LR = 1.5e-3
WARM_UP = 0.05  # of all steps
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
SHIFT = 2  # pixels
# One stage per line of the log: (share of patches dropped, images seen).
STAGES = ((0.75, 60_000),) * 12 + ((0.5, 60_000), (0.0, 20_000))


def read_idx(path: Path) -> torch.Tensor:
    """Read one gzipped idx file of bytes; images come as (N, 28, 28), labels as (N,)."""
    raw = gzip.decompress(path.read_bytes())
    dims = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(dims)
    return torch.from_numpy(values.copy())


def read_split(split: str, download_dir: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (images uint8 (N, 28, 28), labels int64 (N,)) of "train" or "test"."""
    prefix = {"train": "train", "test": "t10k"}[split]
    if DEBIAN_DATA.is_dir():
        images = read_idx(DEBIAN_DATA / f"{prefix}-images-idx3-ubyte.gz")
        return images, read_idx(DEBIAN_DATA / f"{prefix}-labels-idx1-ubyte.gz").long()
    from torchvision.datasets import FashionMNIST

    data = FashionMNIST(download_dir, train=split == "train", download=True)
    return data.data, data.targets.long()


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Bytes (B, 28, 28) to normalised floats (B, 1, 28, 28)."""
    config = embedded.default_cfgs[embedded.MODEL_NAME].default
    return (images[:, None].float() / 255 - config.mean[0]) / config.std[0]


def augment(images: torch.Tensor) -> torch.Tensor:
    """Flip half of the images left-right and shift each by up to SHIFT pixels."""
    count, side = len(images), images.shape[-1]
    padded = F.pad(images, (SHIFT,) * 4)  # (B, 32, 32)
    columns = torch.arange(side).repeat(count, 1)  # (B, 28)
    flip = torch.rand(count) < 0.5
    columns[flip] = columns[flip].flip(1)
    columns = columns + torch.randint(2 * SHIFT + 1, (count, 1))
    rows = torch.arange(side) + torch.randint(2 * SHIFT + 1, (count, 1))
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None]]


def learning_rate(progress: float) -> float:
    """Linear warm-up, then linear decay to zero.

    Linear rather than cosine: the last stages still need a rate that lets the model
    settle on inputs with all their patches.
    """
    if progress < WARM_UP:
        return PEAK_LR * progress / WARM_UP
    return PEAK_LR * (1 - progress) / (1 - WARM_UP)


@torch.inference_mode()
def top1(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Top-1 accuracy in per cent, fp32, all tokens kept."""
    model.eval()
    hits = 0
    for start in range(0, len(images), 250):
        logits = model(normalise(images[start : start + 250]))  # (B, 10)
        hits += (logits.argmax(1) == labels[start : start + 250]).sum().item()
    return 100 * hits / len(images)


def train_stage(model, optimiser, data, stage: int) -> float:
    """Run one stage and return its mean training loss."""
    images, labels = data
    drop, seen = STAGES[stage]
    before = sum(count for _, count in STAGES[:stage])
    total = sum(count for _, count in STAGES)
    # Seeded by stage, so a resumed run draws what an uninterrupted one would.
    torch.manual_seed(SEED + 1 + stage)
    model.train()
    model.patch_drop.prob = drop
    losses = []
    for picked in torch.randperm(len(images))[:seen].split(BATCH):
        progress = (before + len(losses) * BATCH) / total
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(progress)
        inputs = normalise(augment(images[picked]))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(inputs).float()  # (B, 10)
        loss = F.cross_entropy(logits, labels[picked], label_smoothing=LABEL_SMOOTHING)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
        if len(losses) % 50 == 0:
            print(f"  {len(losses) * BATCH} images, loss {np.mean(losses[-50:]):.3f}", flush=True)
    return float(np.mean(losses))


def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Return the untrained model and its optimiser; no decay on biases and norms."""
    torch.manual_seed(SEED)
    # A rate above zero makes timm build the PatchDropout that train_stage sets.
    model = timm.create_model(embedded.MODEL_NAME, patch_drop_rate=STAGES[0][0])
    decayed = [p for p in model.parameters() if p.ndim == 2 or p.ndim == 4]
    plain = [p for p in model.parameters() if not (p.ndim == 2 or p.ndim == 4)]
    groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, PEAK_LR, weight_decay=WEIGHT_DECAY, fused=True)


def save_checkpoint(path: Path, state: dict) -> None:
    """Write, then rename: an interrupted write never harms the last checkpoint."""
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    os.replace(partial, path)


def train(work_dir: Path, download_dir: Path) -> tuple[torch.nn.Module, float]:
    """Train through all stages, resuming from work_dir; return (model, seconds)."""
    # On CPU the fused attention's backward takes half of a step; the plain one doesn't.
    set_fused_attn(False)
    data, (test_images, test_labels) = (read_split(s, download_dir) for s in ("train", "test"))
    model, optimiser = build()
    path, first, seconds = work_dir / "last.pt", 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first, seconds = state["stages_done"], state["seconds"]
    for stage in range(first, len(STAGES)):
        start = time.perf_counter()
        loss = train_stage(model, optimiser, data, stage)
        seconds += (took := time.perf_counter() - start)
        accuracy = top1(model, test_images[:2000], test_labels[:2000])
        drop, seen = STAGES[stage]
        print(f"stage {stage + 1}/{len(STAGES)}: drop {drop}, loss {loss:.3f}, "
              f"{seen / took:.0f} images/s, {seconds / 60:.1f} min, "
              f"top-1 of 2,000 {accuracy:.2f} %", flush=True)
        save_checkpoint(path, {"model": model.state_dict(), "optimiser": optimiser.state_dict(),
                               "stages_done": stage + 1, "seconds": seconds})
    return model, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("embedded_ckpt"))
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="for downloads")
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    model, seconds = train(args.work_dir, args.data_dir)


if __name__ == "__main__":
    main()
