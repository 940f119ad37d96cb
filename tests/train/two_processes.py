"""Run by torch.distributed.run from test_two_processes.py: several trainings, one after the other, told as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from vitrim.train import loop
from vitrim.train.recipe import Recipe
from vitrim.train.run import run_recipe


class Stop(Exception):
    """Raised in all processes right after a checkpoint."""


def stop_after(step: int) -> None:
    save = loop.Trainer._save

    def save_and_stop(self: loop.Trainer) -> None:
        save(self)
        if self.step == step:
            raise Stop

    loop.Trainer._save = save_and_stop  # type: ignore[method-assign]


def main() -> None:
    torch.set_num_threads(1)
    import faulthandler; faulthandler.dump_traceback_later(100, file=open(f"/tmp/eng/fh-{torch.multiprocessing.current_process().pid}", "w"))
    place, told = Path(sys.argv[1]), {}
    for name, fields in json.loads((place / "recipes.json").read_text()).items():
        stop, data = fields.pop("_stop", None), fields.pop("_data", "data")
        save = loop.Trainer._save
        if stop is not None:
            stop_after(stop)
        try:
            summary = run_recipe(Recipe(**fields), place / data, place / name, cpu=True)
            told[name] = {key: summary[key] for key in ("processes", "unreadable_images", "top1")}
        except Stop:
            told[name] = "stopped"
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"
        loop.Trainer._save = save  # type: ignore[method-assign]
    (place / f"told-{sys.argv[2] if len(sys.argv) > 2 else ''}{torch.multiprocessing.current_process().pid}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
