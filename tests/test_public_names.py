"""The names that `import vitrim` gives."""

from __future__ import annotations

import inspect
import re
import warnings

import pytest

import fresh
import vitrim

MODULES_FIRST = "import vitrim.draw, vitrim.tracing; import vitrim; assert callable(vitrim.trace)"
PART_FIRST = "import vitrim.train.recipe"  # which imports modules of the package by their names
EVERY_NAME = "import vitrim; [getattr(vitrim, name) for name in vitrim.__all__]"
ONE_BY_ONE = "from vitrim import *; assert callable(trace) and callable(draw_tokens)"


def test_every_public_name_resolves_in_a_fresh_interpreter() -> None:
    for code in (MODULES_FIRST, EVERY_NAME, ONE_BY_ONE, f"{PART_FIRST}; {MODULES_FIRST}; {EVERY_NAME}"):
        done = fresh.run(["-c", code])
        assert done.returncode == 0, done.stderr


def test_public_names_are_sorted_unique_and_listed() -> None:
    assert len(set(vitrim.__all__)) == len(vitrim.__all__)
    assert dir(vitrim) == sorted(vitrim.__all__)


def test_an_old_name_works_and_warns_once_with_the_new_one() -> None:
    for old, new in vitrim._RENAMED.items():
        vars(vitrim).pop(old, None)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(2):
                scope: dict[str, object] = {}
                exec(f"from vitrim import {old}", scope)  # asks twice for the name
                assert scope[old] is getattr(vitrim, new)
        assert [(each.category, f"vitrim.{new}" in str(each.message)) for each in told] == [(DeprecationWarning, True)]
        assert old not in vitrim.__all__


@pytest.mark.parametrize("name", [name for name in vitrim.__all__ if inspect.isfunction(getattr(vitrim, name))])
def test_a_public_function_says_what_each_of_its_arguments_is(name: str) -> None:
    function = getattr(vitrim, name)
    said = inspect.getdoc(function) or ""
    _, _, described = said.partition("Args:\n")
    for parameter in inspect.signature(function).parameters:
        assert re.search(rf"^    .*\b{parameter}\b.*: ", described, re.M), f"{name}: {parameter}"
