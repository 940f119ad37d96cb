"""Started by test_two_processes.py: two processes run several trainings, one after the other, and report as JSON."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.tensor import DTensor

from vitrim.train import loop, run_recipe
from vitrim.train.recipe import Recipe

seen: dict[str, Any] = {}


@contextmanager
def watched(copied: int | None) -> Iterator[None]:
    """Note at each checkpoint how much is in shards. After one, copy the folder, as a run stopped there leaves it."""
    save = loop.Trainer._save

    def save_and_look(self: loop.Trainer) -> None:
        save(self)
        parameters = list(self.setup.model.parameters())
        seen["sharded"] = sum(isinstance(each, DTensor) for each in parameters) / len(parameters)
        seen["world_size"] = torch.distributed.get_world_size()
        if self.step == copied and self.accelerator.is_main_process:
            folder = self.folder.folder
            shutil.copytree(folder, folder.with_name(f"{folder.name}_stopped"))

    loop.Trainer._save = save_and_look  # type: ignore[method-assign]
    try:
        yield
    finally:
        loop.Trainer._save = save  # type: ignore[method-assign]


def report(place: Path, name: str, fields: dict[str, Any]) -> Any:
    copied, data = fields.pop("_copy", None), fields.pop("_data", "data")
    output = place / (name if name != data else f"{name}-out")
    try:
        with watched(copied):
            summary = run_recipe.run_recipe(Recipe(**fields), place / data, output, cpu=True)
        found = {key: summary[key] for key in ("processes", "unreadable_images", "top1")}
        return found | {"sharded": seen["sharded"]}
    except ValueError as error:
        return f"ValueError: {error}"


def main(place: Path) -> None:
    torch.set_num_threads(1)
    run_recipe.save_curves = lambda _: None  # which one process draws as well
    recipes = json.loads((place / "recipes.json").read_text())
    found = {name: report(place, name, fields) for name, fields in recipes.items()}
    found["world_size"] = seen["world_size"]
    (place / f"report-{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    # What torchrun --standalone does, with processes that are forked and so import nothing again.
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="two",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="fork",
        max_restarts=0,
    )
    elastic_launch(config, main)(Path(sys.argv[1]))
