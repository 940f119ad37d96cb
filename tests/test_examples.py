"""Every script in examples/ runs, offline and in seconds, and its table says what the text around it claims."""

from __future__ import annotations

from pathlib import Path

import fresh

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = {"segmentation_probe.py", "retrieval.py"}


def rows_of(script: str, *options: str) -> dict[tuple[str, str], list[float]]:
    """The numbers of the printed table by its first two columns."""
    done = fresh.run([str(EXAMPLES / script), *options])
    assert done.returncode == 0, done.stderr
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    return {(name, what): [float(number) for number in numbers] for name, what, *numbers in lines}


def test_every_example_is_tried_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SCRIPTS, "loading.py"}


def test_the_probe_prefers_the_default_rules() -> None:
    rows = rows_of("segmentation_probe.py", "--limit", "60", "--methods", "evit-nofuse", "tome", "--steps", "2")
    assert rows["unreduced", ""][2] == 1.0
    for name, rule, worse in (
        ("evit-nofuse 0.5", "fill=drift", ("last", "nearest", "zero")),
        ("tome 0.5", "shared=offset", ("token", "fill")),
    ):
        kind = rule.partition("=")[0]
        assert all(rows[name, rule][2] > rows[name, f"{kind}={other}"][2] for other in worse)


def test_images_still_find_their_class() -> None:
    rows = rows_of("retrieval.py", "--limit", "100", "--methods", "tome")
    assert rows["unreduced", "mean of map"][1] == 100.0
    assert rows["tome 0.5", "class token"][0] > 60
    assert rows["tome 0.5", "class token"][1] < 100.0
