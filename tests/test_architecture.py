"""Which part may know which, how large parts may be, and what an import may cost."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

SRC = Path(__file__).resolve().parents[1] / "src" / "vitrim"
FILES = sorted(SRC.rglob("*.py"))
FLOORS = (  # a part imports from floors below its own, and from itself
    ("facts", "failures", "method_looks", "quiet", "temporary", "text", "version"),
    ("store",),
    ("core", "heads", "kinds", "models", "panels", "report"),
    ("tuned_folder",),
    ("backbones", "following", "methods", "patch_maps"),
    ("api", "dense", "quantize", "tracing"),
    ("draw", "draw_features", "measure"),
    ("class_attention", "early_exit", "export", "loading", "testing"),
    ("rivals",),
    ("compare", "saving"),
    ("train", "tuning"),
    ("cli", "public"),
    ("__main__", ""),  # the package itself, which has every public name
)
FIRST = ("api", "core/tokens", "core/interface", "core/token_block", "methods/evit")  # to be read, in this order
UNAWARE = ("draw", "report", "compare.report", "compare.view", "measure")  # of methods and backbones
MAX_FILE_LINES = 250
MAX_FUNCTION_LINES = 40

every_file = pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SRC)) for path in FILES])


def module_of(path: Path) -> str:
    """The dotted name below vitrim: 'core.ops'; '' for the package itself."""
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def own_imports(path: Path) -> set[str]:
    """Modules of vitrim that the file imports, wherever in it: 'core.ops'."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.partition(".")[0] == "vitrim"}
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {node.module} if node.module.partition(".")[0] == "vitrim" else set()
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            parts = [part for part in package.split(".") if part]
            base = ".".join(["vitrim", *parts[: len(parts) - node.level + 1]])
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {f"{base}.{name}" for name in names}
    return {name.removeprefix("vitrim").removeprefix(".") for name in found}


def foreign_imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Names of the libraries that the file imports, the standard library's left out."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"vitrim", "__future__"}


def in_part(module: str, *parts: str) -> bool:
    """Whether the module is, or lies in, one of the parts."""
    return any(module == part or module.startswith(f"{part}.") for part in parts)


def modules(*parts: str) -> Iterator[Path]:
    yield from (path for path in FILES if in_part(module_of(path), *parts))


def test_the_files_are_found() -> None:
    assert {"core.ops", "methods.evit", "backbones.timm", "api"} <= {module_of(path) for path in FILES}
    assert own_imports(SRC / "methods" / "evit.py") >= {"core", "core.scored", "core.tokens"}


def test_the_five_files_to_read_first_are_short() -> None:
    assert sum(len((SRC / f"{name}.py").read_text().splitlines()) for name in FIRST) < 500


def test_core_imports_torch_and_itself_only() -> None:
    for path in modules("core"):
        assert foreign_imports(path) <= {"torch"}, path
        assert all(in_part(name, "core") for name in own_imports(path)), path


def test_a_method_imports_core_only_and_no_other_method() -> None:
    for path in modules("methods"):
        if module_of(path) == "methods":
            continue
        own = ".".join(module_of(path).split(".")[:2])  # a paper of several files is a package
        by_name = ("methods.registry",) if own == "methods.metr" else ()  # exits beside a method of any name
        assert foreign_imports(path) <= {"torch"}, path
        assert all(in_part(name, "core", own, *by_name) for name in own_imports(path)), path


def test_every_method_file_is_registered() -> None:
    registered = own_imports(SRC / "methods" / "__init__.py")
    for path in modules("methods"):
        own = ".".join(module_of(path).split(".")[:2])
        assert own in ("methods", *registered), path


def test_a_backbone_imports_core_the_finder_and_its_own_library() -> None:
    for path in modules("backbones"):
        library = path.stem.removesuffix("_eva").removesuffix("_layers")  # a second file reads more of its blocks
        own_library = {library} - {"reader", "__init__"}
        assert foreign_imports(path) <= {"torch"} | own_library, path
        own = (f"models.{library}", f"backbones.{library}_eva", f"backbones.{library}_layers")
        allowed = (
            "core",
            "facts",
            "heads",
            "backbones.reader",
            *own,
            "backbones.timm",
        )  # which serves others
        assert all(in_part(name, *allowed) for name in own_imports(path)), path


def test_a_library_has_its_facts_its_reader_and_its_loader() -> None:
    tree = ast.parse((SRC / "facts.py").read_text())
    (table,) = (node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FACTS")
    assert isinstance(table.value, ast.Dict)
    libraries = {key.value for key in table.value.keys if isinstance(key, ast.Constant)}
    assert len(libraries) > 1
    assert libraries <= {path.stem for path in (SRC / "backbones").glob("*.py")}
    assert libraries - {"timm"} <= {path.stem for path in (SRC / "loading").glob("*.py")}


def test_the_api_imports_methods_backbones_and_core() -> None:
    allowed = ("core", "methods", "backbones.reader")
    assert all(in_part(name, *allowed) for name in own_imports(SRC / "api.py"))


def test_a_library_is_imported_by_its_backbone_only_when_a_model_comes() -> None:
    for path in modules("api", "core", "methods", "backbones.reader"):
        assert foreign_imports(path) <= {"torch"}, path


@every_file
def test_only_the_command_line_imports_the_command_line(path: Path) -> None:
    if not in_part(module_of(path), "cli", "__main__"):
        assert not any(in_part(name, "cli") for name in own_imports(path))


@every_file
def test_what_measures_or_draws_knows_neither_methods_nor_backbones(path: Path) -> None:
    if in_part(module_of(path), *UNAWARE) and not in_part(module_of(path), "measure.budget"):
        assert not any(in_part(name, "api", "methods", "backbones", "models") for name in own_imports(path))


def test_drawing_takes_a_trace_and_no_model() -> None:
    for path in FILES:
        if path.stem == "draw" and not in_part(module_of(path), "cli"):
            assert "torch" not in foreign_imports(path)


def test_no_import_runs_upwards() -> None:
    floor = {part: number for number, parts in enumerate(FLOORS) for part in parts}
    for path in FILES:
        part = module_of(path).partition(".")[0]
        parts = {name.partition(".")[0] for name in own_imports(path)} - {part}
        assert [f"{module_of(path)} imports {other}" for other in parts if floor[other] >= floor[part]] == []


def test_no_two_modules_import_each_other() -> None:
    imports = {module_of(path): own_imports(path) for path in FILES}
    reach = {name: set(direct) for name, direct in imports.items()}
    for _ in reach:
        reach = {name: direct.union(*(reach.get(other, set()) for other in direct)) for name, direct in reach.items()}
    assert [name for name, others in reach.items() if name in others] == []


@every_file
def test_files_and_functions_are_short(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.body[0].lineno + 1  # a command's signature is its list of options
            assert lines <= MAX_FUNCTION_LINES, f"{node.name} has {lines} lines"


@every_file
def test_every_file_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_what_is_pinned_for_a_python_can_be_installed_on_its_first_release() -> None:
    """Debian 12 has 3.11.2, and a package that asks for 3.11.5 would end its `make demo`."""
    lines = (SRC.parents[1] / "constraints.txt").read_text().splitlines()
    pins = dict(line.partition(" ;")[0].split("==") for line in lines if "==" in line and line[0] != "#")
    versions = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    seen = 0
    for each in importlib.metadata.distributions():
        if versions.get(each.name.lower().replace("_", "-")) == each.version:
            seen += 1
            assert SpecifierSet(each.metadata.get("Requires-Python") or "").contains("3.11.0"), each.name
    assert seen > 20


@every_file
def test_the_oldest_python_can_parse_it(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 10))


HEAVY = ("timm", "matplotlib", "torchvision", "jinja2", "rich", "typer", "safetensors", "huggingface_hub")
HEAVY += ("transformers", "open_clip")


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import vitrim", (*HEAVY, "torch", "numpy")),
        ("from vitrim import *; EViT(), create_method('tome')", HEAVY),
    ],
)
def test_importing_the_package_imports_nothing_heavy(statement: str, heavy: tuple[str, ...]) -> None:
    check = f"import sys; {statement}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
