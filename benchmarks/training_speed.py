"""How much of each method's MAC ratio arrives in training: time of an update against the unreduced model's.

    python benchmarks/training_speed.py --rounds 25

An update is forward, losses, backward and AdamW, in fp32, on random images; METR's includes its heads and losses. Every
model takes its turn in every round of one process; a speed-up is the median over rounds of the ratio within the round,
with the 10th and 90th percentile. The MAC ratio is of one forward, heads left out. Rows go to results/.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import timm
import torch

import vitrim
from rows import append, cpu_name, written
from vitrim.measure.turns import take_turns
from vitrim.train.task import ClassificationTask

METHODS = {
    "EViT 0.7": vitrim.EViT(keep_rate=0.7),
    "EViT 0.5": vitrim.EViT(keep_rate=0.5),
    "METR over EViT 0.7": vitrim.METR(method=vitrim.EViT(keep_rate=0.7)),
    "TM 0.7": vitrim.TokenMergence(keep_rate=0.7),
    "BAT 0.7": vitrim.BeyondAttentive(keep_rate=0.7),
}


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    base = timm.create_model(options.model, img_size=options.img_size)
    models = {"unreduced": base}
    models |= {label: vitrim.reduce_tokens(copy.deepcopy(base), METHODS[label]) for label in options.methods}
    size = (3, options.img_size, options.img_size)
    macs = {label: vitrim.count_macs(model, size) for label, model in models.items()}
    x_BCHW = torch.randn(options.batch_size, *size)
    labels_B = torch.randint(0, base.num_classes, (options.batch_size,))
    updates = {label: update_of(model, x_BCHW, labels_B) for label, model in models.items()}
    turns = take_turns(updates, options.rounds)
    rows = []
    for label in models:
        speedup, mac_ratio = turns.ratio(label, "unreduced"), macs["unreduced"] / macs[label]
        rows.append(
            {
                "model": options.model,
                "img_size": options.img_size,
                "method": label,
                "batch": options.batch_size,
                "gmacs": f"{macs[label] / 1e9:.4f}",
                **written({"mac_ratio": mac_ratio, "speedup": speedup}),
                "speedup_per_mac_ratio": f"{speedup / mac_ratio:.3f}",
                "rounds": options.rounds,
                "threads": options.threads,
                "torch": torch.__version__,
                "timm": timm.__version__,
                "cpu": cpu_name(),
            }
        )
        print(*list(rows[-1].values())[:10], sep="  ", flush=True)
    append(f"training_speed_cpu{options.threads}_fp32", rows)


def update_of(model: torch.nn.Module, x_BCHW: torch.Tensor, labels_B: torch.Tensor) -> Callable[[], None]:
    """One training update of a model, as a function."""
    task = ClassificationTask(model.train())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)

    def update() -> None:
        task(x_BCHW, labels_B).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return update


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
