"""Run by test_resume.py: a training that may kill itself in the middle of writing a checkpoint."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from vitrim.train.recipe import Recipe
from vitrim.train.run import run_recipe


def die_while_writing(step: int) -> None:
    """The checkpoint of that update gets one whole file and half of the next, and then the process is gone."""
    write = safetensors.torch.save_file

    def write_and_die(tensors: dict[str, torch.Tensor], path: Path) -> Any:
        write(tensors, path)
        if f"{step:08d}" in str(path) and path.stem == "optimizer":
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    safetensors.torch.save_file = write_and_die


if __name__ == "__main__":
    torch.set_num_threads(1)
    data, output, fields, step = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
    if step:
        die_while_writing(step)
    run_recipe(Recipe(**fields), data, output, cpu=True)
