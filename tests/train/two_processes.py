"""Run by torch.distributed.run from test_two_processes.py: several trainings, one after the other, told as JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from vitrim.train import loop
from vitrim.train.recipe import Recipe
from vitrim.train.run import run_recipe

seen: dict[str, Any] = {}


class Stop(Exception):
    """Raised in all processes right after a checkpoint."""


@contextmanager
def watched(stop: int | None) -> Iterator[None]:
    """Note at each checkpoint how much is in shards, and stop after one."""
    save = loop.Trainer._save

    def save_and_look(self: loop.Trainer) -> None:
        save(self)
        parameters = list(self.setup.model.parameters())
        seen["sharded"] = sum(isinstance(each, DTensor) for each in parameters) / len(parameters)
        seen["world_size"] = torch.distributed.get_world_size()
        if self.step == stop:
            raise Stop

    loop.Trainer._save = save_and_look  # type: ignore[method-assign]
    try:
        yield
    finally:
        loop.Trainer._save = save  # type: ignore[method-assign]


def tell(place: Path, name: str, fields: dict[str, Any]) -> Any:
    stop, data = fields.pop("_stop", None), fields.pop("_data", "data")
    output = place / (name if name != data else f"{name}-out")
    try:
        with watched(stop):
            summary = run_recipe(Recipe(**fields), place / data, output, cpu=True)
        told = {key: summary[key] for key in ("processes", "unreadable_images", "top1")}
        return told | {"sharded": seen["sharded"]}
    except Stop:
        return "stopped"
    except ValueError as error:
        return f"ValueError: {error}"


def main() -> None:
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    told = {
        name: tell(place, name, fields) for name, fields in json.loads((place / "recipes.json").read_text()).items()
    }
    told["world_size"] = seen["world_size"]
    (place / f"told-{os.environ['RANK']}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
