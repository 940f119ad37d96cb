"""Every numeric option of every command refuses text and numbers out of range in one line."""

from __future__ import annotations

import inspect
import typing

import pytest

from vitrim.cli import app
from vitrim.cli.values import Numbers, Several, number, whole

NONSENSE = ("nan", "inf", "-inf", "1e999", "9" * 400, "9" * 5000, "many", "")


def numeric_options() -> dict[tuple[str, str], object]:
    """What reads each option or argument of a kind of number, by command and option."""
    found = {}
    for command in app.registered_commands:
        hints = typing.get_type_hints(command.callback, include_extras=True)
        for name in inspect.signature(command.callback).parameters:
            kind, *more = typing.get_args(hints[name]) or (hints[name], None)
            if {int, float, Several} & {kind, *typing.get_args(kind)}:
                flags = [each for each in more[0].param_decls or () if each.startswith("--")]
                found[command.callback.__name__, (flags or [f"--{name.replace('_', '-')}"])[0]] = more[0].parser
    return found


OPTIONS = numeric_options()
REQUIRED = {
    "compare": ("--output", "out"),
    "export": ("--to", "onnx"),
    "draw": ("x.png", "--output", "y.png"),
    "features": ("x.png", "--output", "y.png"),
    "anytime": ("test_vit",),
    "doctor": ("test_vit",),
}


def test_all_numbers_are_read_by_what_checks_them():
    assert len(OPTIONS) > 60
    assert {"evaluate", "benchmark", "macs", "compare", "export", "anytime", "cls_quality"} < {
        each for each, _ in OPTIONS
    }
    assert [option for option, parser in OPTIONS.items() if not isinstance(parser, Numbers)] == []


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=lambda part: part)
def test_numbers_that_make_no_sense_are_refused_in_one_line(command, option, capsys, monkeypatch):
    monkeypatch.setattr("vitrim.loading.build.build_model", lambda *_, **__: pytest.fail("went on"))
    parser = OPTIONS[command, option]
    out_of_range = [str(parser.least)] if parser.above else [str(parser.least - 1)]
    for value in (*NONSENSE, *out_of_range, *(["1,x", "1,,nan"] if parser.several else ["1,2"])):
        with pytest.raises(SystemExit) as end:
            app([command.replace("_", "-"), *REQUIRED.get(command, ()), option, value])
        out, err = capsys.readouterr()
        assert (end.value.code, out) == (2, "")
        (line,) = err.splitlines()
        assert option in line and "wanted" in line and len(line) < 300, line


def test_what_is_wanted_is_told_in_words():
    assert whole(1).wanted == "a whole number of at least 1 and at most 2147483647"
    assert number(0, above=True).wanted == "a number above 0"
    assert number(0, 1, above=True, several=True).wanted == "numbers above 0 and at most 1, separated by commas"
    assert whole(several=True)(" 3, 4,") == Several((3, 4))
    assert whole(several=True)(Several((3, 4))) == (3, 4)
