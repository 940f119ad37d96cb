"""Run by test_resume.py: a training that kills itself, while it writes a checkpoint or at any moment."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from vitrim.train.recipe import Recipe
from vitrim.train.run_recipe import run_recipe


def die_while_writing(step: int) -> None:
    """The checkpoint of that update gets one whole file and half of the next, and then the process is gone."""
    write = safetensors.torch.save_file

    def write_and_die(tensors: dict[str, torch.Tensor], path: Path) -> Any:
        write(tensors, path)
        if f"{step:08d}" in str(path) and path.stem == "optimizer":
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    safetensors.torch.save_file = write_and_die


def die_after_line(output: Path, count: int) -> None:
    """Wait for that many lines of the log, note the worker processes, and kill this process wherever it is."""
    log, pid = output / "metrics.jsonl", os.getpid()
    while not log.exists() or len(log.read_text().splitlines()) < count:
        time.sleep(0.01)
    workers = {each for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()}
    output.with_name("workers.txt").write_text(" ".join(workers))
    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    data, output, fields = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    when, number = sys.argv[4], int(sys.argv[5])
    if when == "writing":
        die_while_writing(number)
    else:
        threading.Thread(target=die_after_line, args=(output, number), daemon=True).start()
    run_recipe(Recipe(**fields), data, output, cpu=True)
