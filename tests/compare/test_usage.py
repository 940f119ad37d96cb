"""The lines that a report says to use make the method of the row again, for every method."""

from __future__ import annotations

import pytest

from every_method import NAMES, PLAIN, SPEC
from rows import make_row
from vitrim import create_method
from vitrim.compare.method_text import assigned, read_methods
from vitrim.compare.usage import own_settings
from vitrim.core.method import plain_settings


def resolved(name, settings):
    """The settings of a method for the model, sequences as lists."""
    found = plain_settings(create_method(name, **settings).built_for(SPEC))
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items() if key != "exits"}


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_of_a_row_make_its_method_again(name):
    built = PLAIN[name].built_for(SPEC)
    own = own_settings(make_row(name, settings=plain_settings(built)))
    assert resolved(name, own) == resolved(name, {})
    (choice,) = read_methods(f"{name} {assigned(own)}")
    assert resolved(name, choice.settings) == resolved(name, {})
