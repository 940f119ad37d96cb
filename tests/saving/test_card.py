"""The card that a saved model gets."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from saved_models import built, method_of, reduced

import vitrim
from vitrim.backbones.reader import find_stack
from vitrim.methods import EViT


def test_the_card_has_computed_numbers_and_what_was_given(tmp_path):
    yaml = pytest.importorskip("yaml")

    @dataclass
    class Recipe:
        epochs: int = 3

    model = reduced("metr", keep_rate=0.5)
    folder = vitrim.save_pretrained(
        model, tmp_path / "saved", recipe=Recipe(), metrics={"top-1 | fine": 71.25}, notes="See *there*."
    )
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "vitrim",
        "pipeline_tag": "image-classification",
        "tags": ["vitrim", "timm", "vision-transformer", "token-reduction", "metr", "evit"],
    }
    full, less = vitrim.count_macs(built()) / 1e9, vitrim.count_macs(model) / 1e9
    assert f"| GMACs | {full:.4g} | {less:.4g} |" in text
    plain = sum(parameter.numel() for parameter in built().parameters())
    assert f"| parameters in use | {plain:,} | {plain:,} |" in text
    counts = find_stack(model).stack.spec
    assert counts.num_patches == 64
    assert "| tokens after each block | 65 x5 | 65, 34, 19, 11 x2 |" in text
    assert "| top-1 \\| fine | 71.25 |" in text
    assert "exits=False" in text
    assert '"epochs": 3' in text
    assert "See *there*." in text
    assert json.loads((folder / "config.json").read_text())["recipe"] == {"epochs": 3}
    assert "license" not in header


def test_the_code_of_the_card_runs(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    code = (saved / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names = {}
    exec(code, names)
    assert method_of(names["model"]).exits is not None
    assert isinstance(method_of(names["plain"]), EViT)
    assert find_stack(names["whole"]) is None


def test_text_of_any_kind_stays_text_and_short_in_the_card(tmp_path):
    metrics = {"<script>alert(1)</script>": "![x](http://x) \x1b[31m\n# red", "long": "9" * 10**5}
    metrics |= {f"more {i}": i for i in range(1000)}
    folder = vitrim.save_pretrained(
        built(), tmp_path / "a`b\n# c", metrics=metrics, recipe={"notes": "x" * 10**6, "fence": "\n```\n# d"}
    )
    text = (folder / "README.md").read_text()
    assert len(text) < 40_000
    assert "<script>" not in text and "\x1b" not in text
    assert "\n| \\<script\\>alert(1)\\</script\\> | !\\[x\\](http://x) \\\\x1b\\[31m # red |\n" in text
    assert next(line for line in text.splitlines() if line.startswith("# ")) == "# a\\`b # c"
    assert not any(line.startswith(("# c", "# d", "# red")) for line in text.splitlines())
    assert json.loads((folder / "config.json").read_text())["recipe"]["notes"] == "x" * 10**6


def test_a_card_of_a_hostile_name_stays_one_header(tmp_path):
    yaml = pytest.importorskip("yaml")
    folder = vitrim.save_pretrained(built(), tmp_path / "saved", license='x"\n---\nmit: [')
    header = (folder / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(header)["license"] == 'x"\n---\nmit: ['
