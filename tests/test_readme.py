"""Every command and every example in the README runs, in order, from the project's root."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"```(sh|python)\n(.*?)```\n(?:<!-- readme: (.*?) -->)?", re.S)


class Example(NamedTuple):
    language: str
    code: str
    exempt: str  # why it is not run here, from the comment behind the fence

    @property
    def lines(self) -> list[str]:
        return [line for line in self.code.replace("\\\n", " ").splitlines() if line.strip()]


def examples(name: str) -> list[Example]:
    return [Example(*match) for match in FENCE.findall((ROOT / name).read_text())]


README = examples("README.md")
PYTHON = [example for example in README if example.language == "python"]
SHELL = [line for example in README if example.language == "sh" and not example.exempt for line in example.lines]
EXEMPT = {"needs network", "runs this test"}


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def test_every_example_left_out_says_why() -> None:
    assert {example.exempt for example in README if example.exempt} == EXEMPT


@pytest.mark.parametrize("example", PYTHON, ids=lambda example: example.lines[-1])
def test_python_example_runs(example: Example, tmp_path: Path) -> None:
    run([sys.executable, "-c", example.code], tmp_path)


@pytest.mark.parametrize("command", [line for line in SHELL if line.startswith("vitrim ")])
def test_shell_command_runs(command: str, tmp_path: Path) -> None:
    program = shutil.which("vitrim", path=str(Path(sys.executable).parent))
    assert program is not None, "the package is not installed beside this Python"
    run([program, *command.split()[1:]], tmp_path)


def test_other_shell_commands_are_make_targets() -> None:
    others = [line for line in SHELL if not line.startswith("vitrim ")]
    assert others == ["make demo"]


def test_tables_are_what_the_recorded_rows_say() -> None:
    run([sys.executable, "benchmarks/tables.py", "--check"], ROOT)


@pytest.mark.slow
def test_the_demo_runs() -> None:
    run(["make", "demo"], ROOT)


def test_example_of_adding_a_method_works_as_written() -> None:
    code = next(example.code for example in examples("docs/adding-a-method.md") if example.language == "python")
    check = (
        "import vitrim\nmodel = vitrim.build_model('deit_tiny_patch16_224')\nvitrim.reduce_tokens(model, KeepBest())"
    )
    run([sys.executable, "-c", f"{code}\n{check}"], ROOT)
