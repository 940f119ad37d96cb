"""Every command and every Python example in the documents runs, from a folder of its own.

One that cannot run offline says so in a comment behind its fence; then its options and recipes are read, at least.
"""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

import fresh
from website.links import followed, headings, links
from website.notebook import text_of

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "recipes/README.md",
    *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```\n(?:<!-- not run: (.*?) -->)?", re.S | re.M)
ADDING = ("adding-a-method", "adding-a-backbone")
REASONS = {"", "needs network", "starts this test"}
# Exporters take half a second for each block, so what they write in the examples has four of the model's twelve.
SHALLOW = """
from vitrim.models import embedded
build = embedded.build_model_with_cfg
def shallow(*args, **settings):
    model = build(*args, **settings)
    model.blocks = model.blocks[:4]
    return model
embedded.build_model_with_cfg = shallow
"""
BEFORE = {"docs/export.md": SHALLOW}


class Example(NamedTuple):
    document: str
    language: str
    code: str
    not_run: str  # why, from the comment behind the fence; nothing if it is run

    @property
    def lines(self) -> list[str]:
        """Commands, one a line."""
        return [line for line in self.code.replace("\\\n", " ").splitlines() if line.strip()]


EXAMPLES = [Example(name, *match) for name in DOCUMENTS for match in FENCE.findall((ROOT / name).read_text())]
SHELL = [each for each in EXAMPLES if each.language == "sh" and not each.not_run]
COMMANDS: dict[str, str] = {}  # each runs once, with those of the first document that shows it
for example in SHELL:
    for line in example.lines:
        if line != "make demo":
            COMMANDS.setdefault(line, example.document)
NEEDS_NETWORK = [shlex.split(line) for each in EXAMPLES if each.not_run == "needs network" for line in each.lines]


def python(*command: str, folder: Path, before: str = "") -> None:
    done = fresh.run([*command], folder, before)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def vitrim(*arguments: str, folder: Path, before: str = "") -> None:
    program = shutil.which("vitrim", path=str(Path(sys.executable).parent))
    assert program is not None, "the package is not installed beside this Python"
    python(program, *arguments, folder=folder, before=before)


def test_every_fence_is_an_example_or_a_drawing_and_every_one_left_out_says_why() -> None:
    assert {each.language for each in EXAMPLES} == {"sh", "python", ""}
    assert {each.not_run for each in EXAMPLES} == REASONS
    drawings = [each for each in EXAMPLES if not each.language]
    assert not any(re.search(r"^(vitrim|python|pip|import|from) ", each.code, re.M) for each in drawings)


@pytest.mark.parametrize("document", dict.fromkeys(each.document for each in EXAMPLES if each.language == "python"))
def test_python_examples_run_in_order(document: str, tmp_path: Path) -> None:
    examples = [each for each in EXAMPLES if each.document == document and each.language == "python"]
    assert not any(each.not_run for each in examples)
    python("-c", "\n".join(each.code for each in examples), folder=tmp_path, before=BEFORE.get(document, ""))


@pytest.mark.parametrize("document", dict.fromkeys(COMMANDS.values()))
def test_commands_run_in_order(document: str, tmp_path: Path) -> None:
    commands = [shlex.split(line) for line, home in COMMANDS.items() if home == document]
    for name in ("examples", "recipes", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    for program, *arguments in commands:
        if program == "python":
            python(*arguments, folder=tmp_path)
        else:
            assert program == "vitrim", f"{document}: {program} is no command of this project"
            vitrim(*arguments, folder=tmp_path, before=BEFORE.get(document, ""))


@pytest.mark.parametrize("command", NEEDS_NETWORK, ids=" ".join)
def test_a_command_that_needs_the_network_is_understood(command: list[str]) -> None:
    from typer.main import get_command

    from vitrim.cli import app

    if "train" in command:  # --show reads the recipe and every option, and trains nothing
        vitrim(*command[command.index("train") :], "--show", folder=ROOT)
    elif command[0] == "vitrim":
        group = get_command(app)
        name, *rest = command[1:]
        group.commands[name].make_context(name, rest)  # type: ignore[attr-defined]
    elif command[:3] == ["python", "-m", "benchmarks"]:
        from benchmarks.__main__ import EXPERIMENTS
        from benchmarks.experiment import parse

        name, *rest = command[3:]
        assert name in EXPERIMENTS or (name, rest) == ("tables", [])
        if name in EXPERIMENTS:
            parse(importlib.import_module(f"benchmarks.{name}").EXPERIMENT, rest)
    else:
        assert command[:2] == ["pip", "install"]
        extras = re.findall(r"\[(.*?)\]", command[2])
        assert all(f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text() for extra in extras)


def test_methods_in_the_readme_go_by_that_name_and_are_made_like_that() -> None:
    import vitrim

    rows = re.findall(r"^\| `([\w+-]+)` \| `(\w+\(.*?\))` \|", (ROOT / "README.md").read_text(), re.M)
    assert len(rows) >= 5
    for name, code in rows:
        assert eval(code, {key: getattr(vitrim, key) for key in vitrim.__all__}).name == vitrim.create_method(name).name


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def prose_and_code(document: str) -> str:
    """A document without the targets of its links."""
    return re.sub(r"\]\([^)]*\)", "]", (ROOT / document).read_text())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_public_names_in_a_document_exist(document: str) -> None:
    import vitrim

    found = set(re.findall(r"(?<![\w/-])vitrim\.(\w+)", prose_and_code(document))) - {"safetensors", "methods"}
    assert not {name for name in found - set(vitrim.__all__) if find_spec(f"vitrim.{name}") is None}


@pytest.mark.parametrize("page", ["CONTRIBUTING", *(f"docs/{page}" for page in ("design", "style", *ADDING))])
def test_names_of_the_code_in_a_document_are_in_the_code(page: str) -> None:
    files = [path for folder in ("src", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")]
    files.remove(Path(__file__))
    known = {word for path in files for word in re.findall(r"\w+", f"{path.read_text()} {path.stem}")}
    elsewhere = {"save_state", "pyproject", "toml"}  # of accelerate; a file's name
    text = re.sub(r"^```.*?^```", "", (ROOT / f"{page}.md").read_text(), flags=re.S | re.M)
    named = {word for code in re.findall(r"`([^`]+)`", text) for word in re.findall(r"[a-zA-Z_]\w*", code)}
    assert not named - known - elsewhere


def options_that_exist() -> set[str]:
    """Of every command, every field of a recipe, and the scripts beside the package."""
    from typer.main import get_command

    import vitrim
    from vitrim.cli import app

    group = get_command(app)
    commands = [group, *group.commands.values()]  # type: ignore[attr-defined]
    found = {option for command in commands for each in command.params for option in each.opts + each.secondary_opts}
    found |= {f"--{field.name.replace('_', '-')}" for field in fields(vitrim.Recipe)}
    scripts = [path.read_text() for folder in ("examples", "benchmarks") for path in (ROOT / folder).glob("*.py")]
    return found | {option for script in scripts for option in re.findall(r'"(--[\w-]+)"', script)}


def test_options_in_the_documents_exist() -> None:
    elsewhere = {"--nproc-per-node", "--help", "--settings", "--plugin"}  # of torchrun, typer, recipes, benchmarks
    found = {
        (document, option)
        for document in set(DOCUMENTS) - {"docs/log.md"}  # which may name what is gone
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", prose_and_code(document))
    }
    known = options_that_exist() | elsewhere
    assert not {(document, option) for document, option in found if option not in known}


@pytest.mark.slow
@pytest.mark.parametrize("document", BEFORE)
def test_what_runs_on_fewer_blocks_runs_on_all(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(BEFORE, document)
    test_python_examples_run_in_order(document, tmp_path)
    test_commands_run_in_order(document, tmp_path)


@pytest.mark.slow
def test_the_demo_runs(tmp_path: Path) -> None:
    subprocess.run(["make", "demo", f"OUTPUT={tmp_path / 'demo'}"], cwd=ROOT, check=True)
    assert (tmp_path / "demo" / "report.html").is_file()


def test_tables_are_what_the_recorded_rows_say() -> None:
    python("-m", "benchmarks", "tables", "--check", folder=ROOT)


def leads_somewhere(link: str, document: str) -> bool:
    """Whether the file that a document links to is there, and the heading in it."""
    file, anchor = followed(link, document)
    return (ROOT / file).exists() and (not anchor or anchor in headings((ROOT / file).read_text()))


def test_a_link_to_a_missing_heading_is_found() -> None:
    assert leads_somewhere("docs/design.md#decisions", "README.md")
    assert not leads_somewhere("docs/design.md#decisons", "README.md")
    assert not leads_somewhere("design.md", "README.md")


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md", "findings/README.md", "examples/quickstart.ipynb"])
def test_links_and_files_that_are_named_are_there(document: str) -> None:
    text = text_of(ROOT / document)
    missing = [link for link in links(text) if not leads_somewhere(link, document)]
    named = re.findall(r"`(?:python )?([\w./-]+/[\w.-]+\.(?:py|md|csv|sh))[ `]", text)
    places = [ROOT, ROOT / "src" / "vitrim", (ROOT / document).parent]
    missing += [name for name in named if not any((place / name).exists() for place in places)]
    assert not missing
