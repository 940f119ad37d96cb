"""Methods and their settings are read from text."""

from __future__ import annotations

from typing import Any

import pytest

import vitrim.methods
from vitrim.compare.configuration import configurations
from vitrim.compare.method_text import Choice, read_methods


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("evit,tome", [("evit", {}), ("tome", {})]),
        ("evit fuse=false; tome r=8,13", [("evit", {"fuse": False}), ("tome", {"r": 8}), ("tome", {"r": 13})]),
        (
            "evit keep_rate=[0.9,0.8,0.7] layers=[3,6,9]",
            [("evit", {"keep_rate": [0.9, 0.8, 0.7], "layers": [3, 6, 9]})],
        ),
        ("tome r=(13,-1.0),[8, 4]", [("tome", {"r": (13, -1.0)}), ("tome", {"r": [8, 4]})]),
        ("evit tokens=[None,10,none]", [("evit", {"tokens": [None, 10, None]})]),
        (
            "token_mergence similarity=l1,l2 keep_rate=0.7,0.5",
            [
                ("token_mergence", {"similarity": similarity, "keep_rate": rate})
                for similarity in ("l1", "l2")
                for rate in (0.7, 0.5)
            ],
        ),
        (" ; evit ;; random seed=3 ", [("evit", {}), ("random", {"seed": 3})]),
    ],
)
def test_text_is_read(text: str, wanted: list[tuple[str, dict[str, Any]]]) -> None:
    assert read_methods(text) == [Choice(*each) for each in wanted]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("evit fuse=maybe", "True or False"),
        ("evit fusee=true", "fusee.*keep_rate, layers, r, scorer, fuse"),
        ("evit fuse", "method.*'evit fuse'"),
        ("evit fuse=true loud", "name=value"),
        ("evit fuse=", "name=value"),
        ("evit fuse=true fuse=false", "twice"),
        ("evit layers=[3,6", r"layers=.*\]"),
        ("nothing a=1", "method.*'nothing'"),
        ("evit, tome r=2", "semicolon"),
        (f"evit layers={'[' * 5000}{']' * 5000}", "lists in lists"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        configurations(read_methods(text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", vitrim.list_methods())
def test_every_setting_of_every_method_can_be_written(name: str) -> None:
    method = vitrim.create_method(name)
    for setting in vars(method):
        value = getattr(method, setting)
        if setting != "exits" and setting in vitrim.methods.settings_of(name):
            (choice,) = read_methods(f"{name} {setting}={value}")
            assert vitrim.create_method(name, **choice.settings) == method


def test_settings_say_how_much_or_leave_it_to_the_amounts_that_are_given() -> None:
    found = configurations(read_methods("evit fuse=false; evit keep_rate=0.5; tome r=8; tome r=(13,-1.0); tome"), [0.7])
    assert [each.key for each in found] == [
        ("evit", "keep 0.7, fuse false"),
        ("evit", "keep 0.5"),
        ("tome", "r 8"),
        ("tome", "r 13 -1.0"),
        ("tome", "keep 0.7"),
    ]


@pytest.mark.parametrize(
    ("text", "given", "words"),
    [
        ("evit keep_rate=0.5; tome r=8", {"keep_rates": [0.7]}, "keep_rate"),
        ("tome r=8", {"gmacs": [1.0], "r": [9]}, "gmacs and r"),
        ("evit layers=[3]; random layers=[4]", {"settings": {"layers": (5,)}}, "layers"),
    ],
)
def test_options_that_nothing_would_use_are_refused(text: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        configurations(read_methods(text), **given)


def test_options_go_to_the_methods_that_leave_them_open() -> None:
    found = configurations(read_methods("evit keep_rate=0.5 layers=[3]; random"), [0.7], settings={"layers": (5,)})
    assert [each.key for each in found] == [("evit", "keep 0.5, layers 3"), ("random", "keep 0.7, layers 5")]
