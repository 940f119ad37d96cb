"""The documentation site: what its pages say comes from the package, and no link in it leads nowhere."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import pytest

import vitrim
from vitrim.methods import registry
from website.costs import costs
from website.docstrings import Parameter, comments, google, take_apart
from website.facts import Facts, all_methods, kind_of
from website.links import headings, links, relinked
from website.method_pages import method_page, methods_table
from website.pictures import draw, drawing, sample_images
from website.reference import GROUPS, command_page, reference_pages
from website.sections import SECTIONS, contents, documents

ROOT = Path(__file__).parent.parent
NEW_METHOD = '''
"""Keep few, A Method of Nobody's (Nobody et al., Nowhere 2026).

Paper: https://example.org/few. Official code: https://example.org/code (MIT).
Few patches stay:

    K = ceil(few * N)
"""
from dataclasses import dataclass
import vitrim


@dataclass(frozen=True, kw_only=True)
class KeepFew(vitrim.EViT):
    """Keep few of the patches.

    few: how few, by choice.

    >>> KeepFew()
    """

    name = "keep_few"
    few: float = 0.25
'''


@pytest.fixture(scope="module")
def found() -> dict[str, Facts]:
    return {facts.name: facts for facts in all_methods()}


@pytest.fixture
def new_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Facts:
    """A method that a program registers, forgotten afterwards."""
    registry.makers()
    monkeypatch.setattr(registry, "_makers", dict(registry._makers))
    (tmp_path / "keep_few.py").write_text(NEW_METHOD.strip())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "keep_few", raising=False)
    import keep_few

    vitrim.register_method(keep_few.KeepFew)
    return next(facts for facts in all_methods() if facts.name == "keep_few")


def test_every_name_of_a_method_is_told_on_one_page(found: dict[str, Facts]) -> None:
    told = [name for facts in found.values() for name in (facts.name, *facts.others)]
    assert sorted(told) == sorted({*vitrim.list_methods(), "tm", "bat"})
    assert found["evit"].others["evit-nofuse"] == {"fuse": False}
    assert {facts.name for facts in found.values() if facts.title in ("TM", "BAT")} == {
        "token_mergence",
        "beyond_attentive",
    }


def test_every_setting_is_described_and_every_paper_named(found: dict[str, Facts]) -> None:
    for facts in found.values():
        assert all(setting.meaning and setting.kind for setting in facts.settings), facts.name
        page = method_page(facts, "picture.png")
        assert ("- Paper: <" in page) == bool(re.search(r"Paper: http", "".join(facts.source))), facts.name


def test_a_page_tells_source_settings_and_measured_cost(found: dict[str, Facts]) -> None:
    page = method_page(found["evit"], "methods/evit.png")
    assert "- Official code: <https://github.com/youweiliang/evit>, Apache-2.0" in page
    assert "| `fuse` | true or false | `True` | whether" in page
    assert "| `evit` | keep 0.7 | 2.5 | 0.82 | 1.53 |" in page
    assert "| deit_small | EViT 0.7 | 32 | 1.52 | **1.57** (1.48 to 1.62) |" in page
    assert "| `feature_norm` | the same with" in page
    assert "eq. 5" in method_page(found["beyond_attentive"], "none")
    assert "neither compiled nor exported" in method_page(found["attention_mass"], "none")
    assert "[Bolya et al., ICLR 2023](https://arxiv.org/abs/2210.09461)" in methods_table(list(found.values()))


def test_a_method_gets_its_page_by_being_registered(new_method: Facts, tmp_path: Path) -> None:
    picture = tmp_path / "keep_few.png"
    assert draw(sample_images(tmp_path / "images"), drawing(new_method), picture) == ""
    assert picture.stat().st_size > 10_000
    page = method_page(new_method, "methods/keep_few.png")
    assert page.startswith("# KeepFew\n\nKeep few of the patches.\n")
    assert "## Formula\n\n```text\nK = ceil(few * N)\n```" in page
    assert "- Official code: <https://example.org/code>, MIT" in page
    assert "| `few` | number | `0.25` | how few, by choice. |" in page
    assert "| `keep_rate` | number or list of numbers | `0.7` | share of the patches" in page
    assert "no rows of it" in page
    assert not costs(new_method)


def test_a_method_that_cannot_be_drawn_says_why(new_method: Facts, tmp_path: Path) -> None:
    why = draw([tmp_path / "none.png"], drawing(new_method), tmp_path / "out.png")
    assert "none.png" in why
    assert why in method_page(new_method, why)


DOC = """Do it.

model: any model; its
    blocks change. rate, share: of patches, `a: b` too.
by: cost,
or time. Nothing else.
What follows is prose. Errors: ValueError for none.

>>> do(model)
"""


def test_parameters_are_found_in_docstrings_of_both_styles() -> None:
    names = ("model", "rate", "share", "by", "other")
    assert take_apart(DOC, names) == [
        "Do it.",
        Parameter("model", "any model; its blocks change."),
        Parameter("rate", "of patches, `a: b` too."),
        Parameter("share", "of patches, `a: b` too."),
        Parameter("by", "cost, or time. Nothing else."),
        "What follows is prose. Errors: ValueError for none.",
        ">>> do(model)",
    ]
    other = "Do it.\n\nArgs:\n    model (nn.Module): any.\n    rate: of\n        patches.\n\nReturns:\n    It."
    assert take_apart(other, names)[1:3] == [Parameter("model", "any."), Parameter("rate", "of patches.")]
    assert google(other, names)[:4] == ["Do it.", "", "Args:", "    model (nn.Module): any."]
    text = "\n".join(google(DOC, names))
    assert "\nArgs:\n    model: any model; its blocks change.\n    rate: of" in text
    assert text.index("What follows") > text.index("    by: cost")


def test_comments_behind_fields_describe_them() -> None:
    found = comments(vitrim.Timing)
    assert found["latency_ms"] == "of one batch"
    assert comments(vitrim.ClsQuality)["overlaps"].endswith("finds; at random it would be the keep rate")
    lines = google("Speed.\n\nMore.", ("latency_ms", "rounds"), found)
    assert lines == ["Speed.", "", "More.", "", "Args:", "    latency_ms: of one batch", ""]


def test_stars_and_bars_of_docstrings_are_no_markup() -> None:
    assert google("a * b | c_ of `x * y`", ()) == [r"a \* b \| c\_ of `x * y`", ""]


def test_kinds_of_settings_are_words() -> None:
    assert kind_of(int | None) == "whole number or none"
    assert kind_of(Literal["cls", "norm"]) == "`cls`, `norm`"
    assert kind_of(tuple[int, float]) == "(whole number, number)"


def test_every_public_name_and_command_is_in_the_reference() -> None:
    pages = reference_pages()
    entries = re.findall(r"^\.\. auto\w+:: (\w+)$", "".join(pages.values()), re.M)
    assert sorted(entries) == sorted(vitrim.__all__)
    assert set(pages) == {*(f"reference/{group}.rst" for group in GROUPS), "reference/index.rst"}
    assert all(f"~vitrim.{name}`" in pages["reference/index.rst"] for name in vitrim.__all__)
    commands = command_page()
    assert "## vitrim compare\n" in commands
    assert "| `--keep-rates`" in commands


def test_every_document_has_a_place() -> None:
    pages = {page.removesuffix(".md") for page in documents().values()} - {"index"}
    assert pages <= {page for section in SECTIONS.values() for page in section}, "name it in SECTIONS"
    assert all(f"\n{page}\n" in contents() for page in pages)


def test_links_are_followed_to_another_place() -> None:
    text = "[a](b.md#c) `[x](y)` ![p](../q.png) [web](https://x.y)\n```\n[z](z.md)\n```\n"
    assert list(links(text)) == ["b.md#c", "y", "../q.png"]
    assert relinked("[a](b.md#c)", "docs/x.md", "m/x.md", lambda file: f"at/{file}") == "[a](../at/docs/b.md#c)"
    assert headings("# One: two\n## `a_b`, c\n## One: two\n") == {"one-two", "a_b-c", "one-two-1"}


@dataclass
class Page:
    """What an HTML page links to, and what can be linked to in it."""

    links: list[str]
    anchors: set[str]


def read(path: Path) -> Page:
    page = Page([], set())

    class Reader(HTMLParser):
        def handle_starttag(self, _: str, attributes: list[tuple[str, str | None]]) -> None:
            named = dict(attributes)
            page.links.extend(filter(None, (named.get("href"), named.get("src"))))
            page.anchors.update(filter(None, (named.get("id"), named.get("name"))))

    Reader().feed(path.read_text(encoding="utf-8"))
    return page


def broken_links(site: Path) -> Iterator[str]:
    pages = {path: read(path) for path in site.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link) or link.startswith("//"):
                continue
            there = (path.parent / unquote(target.partition("?")[0])).resolve() if target else path
            if not there.is_file() or (anchor and there in pages and unquote(anchor) not in pages[there].anchors):
                yield f"{path.relative_to(site)}: {link}"


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    from build import clear

    clear(tmp_path / "new")
    (tmp_path / "new" / "html").mkdir()
    clear(tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".vitrim-site"]
    (tmp_path / "source").mkdir()
    with pytest.raises(ValueError, match="something else"):
        clear(tmp_path)
    assert (tmp_path / "source").is_dir()


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.py")), ids=lambda path: path.name)
def test_its_files_and_functions_are_short_and_say_what_they_are(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert len(path.read_text().splitlines()) <= 250
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert all((node.end_lineno or 0) - node.lineno < 40 for node in functions)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("furo") is None, reason='needs the extra "docs" (furo)')
def test_the_site_is_built_with_a_registered_methods_page_and_no_broken_link(tmp_path: Path) -> None:
    (tmp_path / "keep_few.py").write_text(NEW_METHOD.strip())
    code = "import keep_few, vitrim, build, pathlib; vitrim.register_method(keep_few.KeepFew); "
    code += "build.build(pathlib.Path('site').resolve())"
    path = os.pathsep.join([str(tmp_path), str(ROOT / "docs"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site" / "html"
    assert "KeepFew" in (site / "all-methods.html").read_text()
    assert "methods/keep_few.html" in read(site / "all-methods.html").links
    assert any("keep_few" in link for link in read(site / "gallery.html").links)
    assert not list(broken_links(site))
    outside = [
        link for page in site.rglob("*.html") for link in re.findall(r'src="(https?://[^"]*)"', page.read_text())
    ]
    assert not outside, "the site needs the network to be read"
