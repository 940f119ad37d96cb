"""Train and export the embedded default model, ``vitrim_fashion_tiny``.

A plain 12-block ViT (1.35 M parameters, 100 patch tokens) on Fashion-MNIST, with no
token reduction from vitrim. timm's PatchDropout hides half of the patches in all stages
but the last three, which makes a step more than twice as cheap on a CPU.

    python recipes/embedded_default.py

Expect about 88.3 % top-1 on the 10,000 test images after about 70 minutes on 2 busy cores.
A stopped run goes on from the last finished stage in --work-dir.
"""

import argparse
import gzip
import io
import os
import time
import zipfile
from pathlib import Path

import numpy as np
import timm
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import save_file
from timm.layers import build_sincos2d_pos_embed, set_fused_attn
from torch.nn.functional import cross_entropy, pad
from torch.nn.parallel import DistributedDataParallel

from vitrim.models import embedded

DEBIAN_DATA = Path("/usr/share/datasets/fashion-mnist")
SEED = 0
LR = 1.5e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
PAD = 1  # black pixels on each side: 28x28 to 30x30, as the model's eval transform does
SHIFT = 2  # pixels
# (share of patches dropped, images seen, batch over all workers, learning rate at start, at end)
STAGES = (
    (0.5, 30_000, 128, 0.0, LR),
    *[(0.5, 60_000, 128, LR, LR)] * 2,
    (0.5, 60_000, 64, LR, LR),
    (0.5, 60_000, 128, 0.80 * LR, 0.65 * LR),
    (0.5, 60_000, 128, 0.65 * LR, 0.50 * LR),
    (0.5, 60_000, 128, 0.50 * LR, 0.35 * LR),
    (0.5, 60_000, 128, 0.35 * LR, 0.26 * LR),
    (0.5, 60_000, 128, 0.26 * LR, 0.14 * LR),
    (0.5, 40_000, 128, 0.14 * LR, 0.06 * LR),
    (0.0, 20_000, 128, 0.06 * LR, 0.0),
    (0.0, 60_000, 128, 0.3 * LR, 0.0),
    (0.0, 40_000, 128, 0.2 * LR, 0.0),
)
SHIPPED = 1000  # the first images of the official test set
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


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
    """Bytes (B, 28, 28) to padded, normalised floats (B, 1, 30, 30)."""
    config = embedded.default_cfgs[embedded.MODEL_NAME].default
    padded = pad(images, (PAD,) * 4)[:, None].float()
    return (padded / 255 - config.mean[0]) / config.std[0]


def augment(images: torch.Tensor) -> torch.Tensor:
    """Flip half of the images left-right and shift each by up to SHIFT pixels."""
    count, side = len(images), images.shape[-1]
    padded = pad(images, (SHIFT,) * 4)  # (B, 32, 32)
    columns = torch.arange(side).repeat(count, 1)  # (B, 28)
    flip = torch.rand(count) < 0.5
    columns[flip] = columns[flip].flip(1)
    columns = columns + torch.randint(2 * SHIFT + 1, (count, 1))
    rows = torch.arange(side) + torch.randint(2 * SHIFT + 1, (count, 1))
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None]]


@torch.inference_mode()
def top1(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Top-1 accuracy in per cent, fp32, all tokens kept."""
    model.eval()
    hits = 0
    for start in range(0, len(images), 250):
        logits = model(normalise(images[start : start + 250]))  # (B, 10)
        hits += (logits.argmax(1) == labels[start : start + 250]).sum().item()
    return 100 * hits / len(images)


def train_stage(model: DistributedDataParallel, optimiser, data, stage: int) -> float:
    """Run one stage on this worker's share of each batch; return the mean loss."""
    images, labels = data
    drop, seen, size, lr_start, lr_end = STAGES[stage]
    rank, workers = dist.get_rank(), dist.get_world_size()
    # Seeded by stage, so a resumed run draws what an uninterrupted one would.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED + stage))
    torch.manual_seed(1000 * (SEED + stage + 1) + rank)
    model.train()
    model.module.patch_drop.prob = drop
    batches = order[:seen].split(size)
    losses = []
    for step, batch in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = lr_start + (lr_end - lr_start) * step / len(batches)
        picked = batch[rank::workers]
        inputs = normalise(augment(images[picked]))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(inputs).float()  # (B, 10)
        loss = cross_entropy(logits, labels[picked], label_smoothing=LABEL_SMOOTHING)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Return the untrained model and its optimiser; no decay on biases and norms."""
    torch.manual_seed(SEED)
    # A rate above zero makes timm build the PatchDropout that train_stage sets.
    model = timm.create_model(embedded.MODEL_NAME, patch_drop_rate=0.5)
    # Learnable, but started from sine-cosine: the model trains faster than from noise.
    grid = build_sincos2d_pos_embed(model.patch_embed.grid_size, model.embed_dim)  # (100, 96)
    model.pos_embed.data = pad(grid, (0, 0, 1, 0))[None]  # (1, 101, 96)
    decayed = [p for p in model.parameters() if p.ndim in (2, 4)]
    plain = [p for p in model.parameters() if p.ndim not in (2, 4)]
    groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, LR, weight_decay=WEIGHT_DECAY, fused=True)


def save_checkpoint(path: Path, state: dict) -> None:
    """Write, then rename: an interrupted write never harms the last checkpoint."""
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    os.replace(partial, path)


def train(rank: int, workers: int, work_dir: Path, data_dir: Path) -> None:
    """Train through all stages as one of the workers, resuming from work_dir."""
    # One thread per worker: on 2 cores, 2 workers ran 1.5 times as fast as 2 threads.
    torch.set_num_threads(1)
    rendezvous = f"file://{(work_dir / 'rendezvous').resolve()}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=workers)
    # The fused attention's backward on CPU takes half of a step; the plain one doesn't.
    set_fused_attn(False)
    data, (test_images, test_labels) = (read_split(s, data_dir) for s in ("train", "test"))
    model, optimiser = build()
    path, first, seconds = work_dir / "last.pt", 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first, seconds = state["stages_done"], state["seconds"]
    replica = DistributedDataParallel(model)
    for stage in range(first, len(STAGES)):
        start = time.perf_counter()
        loss = train_stage(replica, optimiser, data, stage)
        seconds += (took := time.perf_counter() - start)
        if rank > 0:
            continue
        state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
        save_checkpoint(path, state | {"stages_done": stage + 1, "seconds": seconds})
        accuracy = top1(model, test_images[:1000], test_labels[:1000])
        print(
            f"stage {stage + 1}/{len(STAGES)}: loss {loss:.3f}, "
            f"{STAGES[stage][1] / took:.0f} images/s, {seconds / 60:.1f} min, "
            f"top-1 of 1,000 {accuracy:.1f} %",
            flush=True,
        )
    dist.destroy_process_group()


def pack_images(images: torch.Tensor, labels: torch.Tensor, path: Path) -> None:
    """Write images, labels, class names and licence to a zip, alike byte for byte on each run."""
    names = [f"{k:05d}.png" for k in range(len(images))]
    rows = [f"{name},{label}" for name, label in zip(names, labels.tolist(), strict=True)]
    members = {
        "LICENSE": embedded.WEIGHTS.with_name("LICENSE.fashion-mnist").read_bytes(),
        "classes.txt": ("\n".join(CLASSES) + "\n").encode(),
        "labels.csv": ("\n".join(["file,label", *rows]) + "\n").encode(),
    }
    for name, image in zip(names, images.numpy(), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG", optimize=True)  # (28, 28) uint8 is mode L
        members[f"images/{name}"] = buffer.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)


def export(work_dir: Path, data_dir: Path) -> None:
    """Evaluate on all 10,000 test images, then write weights and images into the package."""
    images, labels = read_split("test", data_dir)
    state = torch.load(work_dir / "last.pt", weights_only=True)
    halved = {name: value.half() for name, value in state["model"].items()}
    accuracies = {}
    for precision, weights in (("fp32", state["model"]), ("fp16", halved)):
        model = timm.create_model(embedded.MODEL_NAME)
        model.load_state_dict(weights)
        every, shipped = top1(model, images, labels), top1(model, images[:SHIPPED], labels[:SHIPPED])
        accuracies[precision] = every
        print(f"{precision} weights: top-1 {every:.2f} % of 10,000, {shipped:.1f} % of {SHIPPED}")
    if abs(accuracies["fp32"] - accuracies["fp16"]) > 0.1:
        raise SystemExit("fp16 weights cost more than 0.1 %: nothing exported")
    save_file(halved, embedded.WEIGHTS, metadata={"format": "pt"})
    pack_images(images[:SHIPPED], labels[:SHIPPED], embedded.IMAGES)
    print(f"trained {state['seconds'] / 60:.1f} min; wrote {embedded.WEIGHTS} and {embedded.IMAGES}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("embedded_ckpt"))
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="for downloads")
    parser.add_argument("--workers", type=int, default=2, help="processes, one core each")
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    (args.work_dir / "rendezvous").unlink(missing_ok=True)
    torch.multiprocessing.spawn(train, (args.workers, args.work_dir, args.data_dir), nprocs=args.workers)
    export(args.work_dir, args.data_dir)


if __name__ == "__main__":
    main()
