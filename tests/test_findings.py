"""Each finding says what was guessed and seen, is listed, and runs outside software alone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

FINDINGS = Path(__file__).resolve().parents[1] / "findings"
SCRIPTS = sorted(FINDINGS.glob("*.sh"))


def test_every_script_is_listed_and_nothing_else_is() -> None:
    listed = re.findall(r"^- \[.*?\]\((.*?)\)", (FINDINGS / "README.md").read_text(), flags=re.MULTILINE)
    assert listed == [script.name for script in SCRIPTS]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_has_its_four_lines_and_pins_what_it_installs_without_vitrim(script: Path) -> None:
    text = script.read_text()
    assert all(f"# {word}: " in text for word in ("version", "guess", "what happens", "why it matters"))
    assert "vitrim" not in text
    assert 'pip" install' in text and "==" in text
    subprocess.run(["sh", "-n", str(script)], check=True)
