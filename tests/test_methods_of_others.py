"""Methods of others: registered by a program or brought by a package, and held to the rules."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fresh
import vitrim
from vitrim.core import ops
from vitrim.core.attention import Attention
from vitrim.core.scored import ScoredMethod, patch_scores
from vitrim.core.tokens import Tokens
from vitrim.methods import registry
from vitrim.testing import check_method, small_vit

MODULE = '''
from dataclasses import dataclass
from vitrim import Method
from vitrim.core import ops, schedule
from vitrim.core.amount import Share
from vitrim.core.scored import patch_scores

FEW = Share("few", "few {:g}", neutral=1.0, usual=0.5)


@dataclass(frozen=True, kw_only=True)
class KeepFew(Method):
    """Keep few patches in one block, drop the rest."""

    name = "keep_few"
    few: float = 0.5
    block: int = 1

    @property
    def amount(self):
        return FEW

    def num_kept(self, layer, num_patches):
        return schedule.ceil_share(self.few, num_patches) if layer == self.block else num_patches

    def is_active(self, layer, num_patches):
        return self.num_kept(layer, num_patches) < num_patches

    def extra_macs(self, layer, num_patches, spec):
        return (num_patches + spec.num_prefix) * spec.attention_channels if self.is_active(layer, num_patches) else 0

    def after_attention(self, layer, tokens, attention):
        keep, _ = ops.rank(patch_scores("cls", tokens, attention), self.num_kept(layer, tokens.num_patches))
        return ops.keep(tokens, keep)
'''
TRIED = """
import torch, vitrim
from vitrim.cli import app
from vitrim.testing import check_method
assert "keep_few" in vitrim.list_methods()
method = vitrim.create_method("keep_few", few=0.4)
check_method(method)
model = vitrim.reduce_tokens(vitrim.load_model("vitrim_fashion_tiny"), method)
images = torch.rand(2, 1, 30, 30)
again = vitrim.from_pretrained(vitrim.save_pretrained(model, "saved"))
assert torch.equal(again(images), model(images)) and type(again.blocks.method) is type(method)
for command in (
    ["methods"],
    ["macs", "--methods", "keep_few few=0.4,0.6; evit", "--gmacs", "0.1"],
    ["compare", "--methods", "keep_few few=0.4", "--limit", "10", "--rounds", "2", "--output", "run"],
    ["doctor", "saved"],
):
    try:
        app(command)
    except SystemExit as end:
        assert not end.code, command
report = open("run/report.html").read()
assert "keep_few" in report and "few 0.4" in report
"""


def install(folder: Path, module: str, *, by_pip: bool = True) -> None:
    """A package of one module, as a wheel, in a folder of its own."""
    wheel, info = folder / "keep_few-1.0-py3-none-any.whl", "keep_few-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("keep_few.py", module)
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: keep-few\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/entry_points.txt", "[vitrim.methods]\nkeep_few = keep_few:KeepFew\n")
        file.writestr(f"{info}/RECORD", "")
    if by_pip:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
        subprocess.run([*pip, "--target", str(folder / "site"), str(wheel)], check=True, capture_output=True)
    else:
        zipfile.ZipFile(wheel).extractall(folder / "site")


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What a fresh interpreter says, which finds the package."""
    return fresh.run(["-c", f"import sys; sys.path.insert(0, 'site')\n{code}"], folder)


def test_a_packages_method_works_everywhere(tmp_path: Path) -> None:
    install(tmp_path, MODULE)
    done = run(TRIED, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "few=0.5" in done.stdout and "few 0.6" in done.stdout


def test_a_package_that_fails_is_left_out_with_a_warning(tmp_path: Path) -> None:
    install(tmp_path, "raise RuntimeError('broken')", by_pip=False)
    done = run("import vitrim; print(vitrim.list_methods())", tmp_path)
    assert "evit" in done.stdout and "keep_few" not in done.stdout
    assert "keep_few:KeepFew is left out: broken" in done.stderr


@pytest.fixture
def unregistered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered meanwhile is forgotten afterwards."""
    registry.makers()
    monkeypatch.setattr(registry, "_makers", dict(registry._makers))


@dataclass(frozen=True, kw_only=True)
class KeepBest(ScoredMethod):
    """Keep the most attended patches and forget the rest."""

    name = "keep_best"

    def extra_macs(self, layer: int, num_patches: int, spec: Any) -> int:
        return self.score_macs(num_patches, spec) if self.is_active(layer, num_patches) else 0

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        score_BN = patch_scores(self.scorer, tokens, attention)
        keep_BK, _ = ops.rank(score_BN, self.num_attentive(layer, tokens.num_patches))
        return ops.keep(tokens, keep_BK)


@pytest.mark.usefixtures("unregistered")
def test_a_registered_method_goes_by_its_name_and_is_saved(tmp_path: Path) -> None:
    model = vitrim.reduce_tokens(vitrim.load_model("vitrim_fashion_tiny"), KeepBest(keep_rate=0.5))
    with pytest.raises(ValueError, match=r"KeepBest.*register_method"):
        vitrim.save_pretrained(model, tmp_path / "saved")
    assert vitrim.register_method(KeepBest) is KeepBest is vitrim.register_method(KeepBest)
    assert vitrim.create_method("keep_best", keep_rate=0.5) == KeepBest(keep_rate=0.5)
    assert "keep_best" in vitrim.list_methods()
    again = vitrim.from_pretrained(vitrim.save_pretrained(model, tmp_path / "saved"))
    assert torch.equal(again(torch.ones(1, 1, 30, 30)), model(torch.ones(1, 1, 30, 30)))


def named(name: Any, **how: Any) -> Any:
    return dataclass(**({"frozen": True, "kw_only": True} | how))(type("Other", (vitrim.Method,), {"name": name}))


@pytest.mark.usefixtures("unregistered")
@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (int, "vitrim.Method"),
        (KeepBest(), "vitrim.Method"),
        (named("evit"), "already called 'evit'"),
        (named("tm"), "short for 'token_mergence'"),
        (named("Évit"), "lower-case letters"),
        (named(None), "lower-case letters"),
        (type("Other", (vitrim.Method,), {"name": "other"}), "frozen dataclass"),
    ],
)
def test_what_is_no_method_is_refused(cls: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        vitrim.register_method(cls)


def test_a_dataclass_that_is_not_frozen_is_no_method() -> None:
    with pytest.raises(TypeError, match="non-frozen dataclass"):
        named("other", frozen=False)


def broken(**members: Any) -> Any:
    return dataclass(frozen=True, kw_only=True)(type("Broken", (KeepBest,), members))()


@pytest.mark.parametrize("name", ["build", "make_weights"])
def test_a_method_that_returns_something_else_is_told_which_of_its_functions_does(name: str) -> None:
    model = small_vit()
    with pytest.raises(TypeError, match=f"{name} must return"):
        vitrim.reduce_tokens(model, broken(**{name: lambda *_: 3}))
    assert vitrim.method_of(model) is None


def drop_without_word(_: Any, __: int, tokens: Tokens, ___: Attention) -> Tokens:
    return tokens._replace(x_BNC=tokens.x_BNC[:, : 1 + 45])


def change_always(_: Any, __: int, tokens: Tokens) -> Tokens:
    return tokens.with_features(tokens.x_BNC * 1.1)


def look_at_the_batch(self: KeepBest, _: int, tokens: Tokens) -> Tokens:
    return tokens if self.rate(1) == 1 else tokens.with_features(tokens.x_BNC - tokens.x_BNC.mean(dim=0))


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        (broken(num_kept=lambda *call: call[-1]), "num_kept"),
        (broken(extra_macs=lambda *_: 10**6), "extra_macs"),
        (broken(after_attention=drop_without_word), "num_kept|behind the prefix"),
        (broken(after_block=change_always), "bit-identical"),
        (broken(after_block=look_at_the_batch), "an image alone"),
        (KeepBest(keep_rate=1.0), "reduce something"),
    ],
)
def test_a_method_that_breaks_a_rule_is_found(method: vitrim.Method, rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        check_method(method)


@pytest.mark.parametrize(
    "method", [KeepBest(), vitrim.ToMe(r=5), vitrim.AttentionMass(mass=0.6), vitrim.METR(method=KeepBest())]
)
def test_methods_that_hold_the_rules_pass(method: vitrim.Method) -> None:
    check_method(method)


def test_a_method_with_the_old_names_still_works_and_warns_of_each() -> None:
    with pytest.warns(DeprecationWarning, match="Old.acts is now is_active"):

        @dataclass(frozen=True, kw_only=True)
        class Old(vitrim.EViT):
            name = "old"

            def acts(self, layer: int, num_patches: int) -> bool:
                return super().acts(layer, num_patches)  # type: ignore[misc, no-any-return]

            def after_block(self, layer: int, tokens: Tokens) -> Tokens:
                told: Tokens = tokens.tell(self.name, tokens.first_BC)  # type: ignore[attr-defined]
                return tokens if tokens.carry is None else told  # type: ignore[attr-defined]

            def losses(self, told: Any, logits_BK: Tensor, criterion: Any) -> dict[str, Tensor]:
                return {"told": told[0].sum()}

    model = vitrim.reduce_tokens(small_vit(), "evit", keep_rate=0.5)
    images = torch.rand(2, 3, 32, 32)
    wanted = model(images)
    with pytest.warns(DeprecationWarning, match="is now (is_active|collect|aux)"):
        found = vitrim.ClassificationTask(vitrim.reduce_tokens(model, Old(keep_rate=0.5)))(images, torch.tensor([1, 2]))
    assert torch.equal(found.logits_BK, wanted) and "told" in found.parts
