"""A search that is stopped goes on in its folder, and searches in one folder never mix."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import vitrim
from vitrim.cli import app
from vitrim.models.embedded import demo_images
from vitrim.tuning.cost import Milliseconds
from vitrim.tuning.memory import VALUES, Memory, begin
from vitrim.tuning.output import SEARCH
from vitrim.tuning.resume import Resumable

MODEL = "vitrim_fashion_tiny"
LINE = {100: 100.0, 1: 1.0}
TABLE = Milliseconds(LINE, LINE, dict.fromkeys(LINE, 0.1), rest=5.0, unreduced=2405.0)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_images(tmp_path_factory.mktemp("images") / "fashion")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrim.tuning.timing.ROUNDS", 1)
    monkeypatch.setattr("vitrim.tuning.bench.CORRECTIONS", 0)
    monkeypatch.setattr("vitrim.tuning.bench.measure_table", lambda *given: dict.fromkeys(given[2], TABLE))


def tuned(images: Path, output: Path | None, **settings: Any) -> Any:
    arguments = {"speedup": 1.4, "limit": 24, "tries": 6, "name": MODEL, "output": output} | settings
    return vitrim.tune(vitrim.load_model(MODEL), images, **arguments)


def test_a_search_that_is_stopped_goes_on_and_finds_the_same(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, forward, calls = tuned(images, None), Resumable.forward, [0]
    steps: list[str] = []

    def counted(*arguments: Any, **named: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 9:
            raise KeyboardInterrupt
        return forward(*arguments, **named)

    monkeypatch.setattr(Resumable, "forward", counted)
    with pytest.raises(KeyboardInterrupt):
        tuned(images, tmp_path / "out")
    assert len(Memory(tmp_path / "out" / SEARCH)._values) == 9  # the table, and what eight forwards gave
    monkeypatch.setattr("vitrim.tuning.bench.measure_table", lambda *_: pytest.fail("the table was measured again"))
    found = tuned(images, tmp_path / "out")
    assert (found.schedule, found.num_tried) == (undisturbed.schedule, undisturbed.num_tried)
    assert [row.divergence for row in found.rows] == [row.divergence for row in undisturbed.rows]
    calls[0] = 9  # a finished one computes nothing
    again = tuned(images, tmp_path / "out", progress=steps.append)
    assert (
        json.dumps(again.content()) == json.dumps(found.content())
        and calls[0] == 9
        and "has the finished result" in steps[-1]
    )
    assert not (tmp_path / "out" / SEARCH).exists()


def test_the_folder_of_another_search_is_refused_unless_it_is_to_be_replaced(images: Path, tmp_path: Path) -> None:
    first = tuned(images, tmp_path / "out", gmacs=0.1, speedup=None)
    for other in ({"gmacs": 0.11}, {"seed": 1}, {"limit": 25}, {"dtype": "bf16"}):
        with pytest.raises(ValueError, match=r"another run: its .*--replace"):
            tuned(images, tmp_path / "out", **({"gmacs": 0.1, "speedup": None} | other))
    second = tuned(images, tmp_path / "out", gmacs=0.11, speedup=None, replaces=True)
    assert second.cost > first.cost and json.loads((tmp_path / "out" / "tuned.json").read_text())["cost"] == second.cost


def test_the_command_says_it_in_one_line(images: Path, tmp_path: Path) -> None:
    tuned(images, tmp_path / "out", gmacs=0.1, speedup=None)
    command = ["tune", "--output", str(tmp_path / "out"), "--images", str(images), "--limit", "24", "--gmacs", "0.11"]
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 2 and "its goal is 0.1 GMACs, not 0.11 GMACs" in said.output.splitlines()[-1]


def test_what_a_kill_cut_short_is_computed_again(tmp_path: Path) -> None:
    memory = begin(tmp_path, {"seed": 1})
    assert memory.value("one", lambda: [0.1]) == [0.1]
    memory.value("two", lambda: 2)
    with open(tmp_path / VALUES, "a") as file:
        file.write('{"name": "three", "val')
    again = begin(tmp_path, {"seed": 1})
    assert again.value("one", lambda: pytest.fail("it was known")) == [0.1]
    assert again.value("three", lambda: 3) == 3
    assert begin(tmp_path, {"seed": 1}).value("three", lambda: 4) == 3
    torch.testing.assert_close(again.tensor("t", lambda: torch.arange(3)), torch.arange(3))
    torch.testing.assert_close(begin(tmp_path, {}).tensor("t", lambda: torch.zeros(1)), torch.arange(3))


def test_a_start_that_goes_on_is_as_late_as_the_first_one_was_then(tmp_path: Path) -> None:
    first = begin(tmp_path, {})
    first.value("one", lambda: time.sleep(0.02))
    first.value("two", lambda: time.sleep(0.05))
    again = begin(tmp_path, {})
    assert again.value("one", lambda: 0) is None and 0.02 <= again.seconds < 0.05
    again.value("two", lambda: 0)
    time.sleep(0.02)
    late = again.seconds
    assert 0.07 <= late == again.seconds  # the clock stands until something new is computed
    again.value("three", lambda: 3)
    time.sleep(0.02)
    assert late < again.seconds - 0.01
    assert again.value("one", lambda: 0) is None and late < again.seconds - 0.01


def test_a_goal_that_cannot_be_met_leaves_no_folder(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be met"):
        tuned(images, tmp_path / "out", speedup=50.0)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on(images: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vitrim", "tune", "--images", str(images), "--gmacs", "0.09", "--limit", "16"]
    values = tmp_path / "killed" / SEARCH / VALUES
    process = subprocess.Popen([*command, "--tries", "5", "--output", str(tmp_path / "killed")])
    while not values.exists() or len(values.read_bytes().splitlines()) < 20:
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for name in ("killed", "whole"):
        subprocess.run([*command, "--tries", "5", "--output", str(tmp_path / name)], check=True)
    killed, whole = (json.loads((tmp_path / name / "tuned.json").read_text()) for name in ("killed", "whole"))
    assert killed["schedule"] == whole["schedule"] and killed["num_tried"] == whole["num_tried"]
