"""Kinds of values: of arguments, and of what a JSON file says."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest

from vitrim.kinds import check, is_number, is_per_cent, is_text, is_whole, list_of, named, or_none, read_object
from vitrim.loading.folder import is_ours
from vitrim.loading.names import is_saved


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, True, "1", None, [1]])
def test_what_is_no_finite_number_is_none(value: Any) -> None:
    assert not is_number(value) and not is_whole(value) and not is_per_cent(value)


def test_ranges_hold_at_their_ends_and_for_numbers_beyond_all_floats() -> None:
    assert is_whole(0, 0, 5) and is_whole(5, 0, 5) and not is_whole(-1, 0, 5) and not is_whole(6, 0, 5)
    assert is_number(10.0, 10) and is_number(-10, 10) and not is_number(10.5, 10)
    assert not is_whole(10**400, 0, 5) and not is_number(10**400) and is_whole(10**400)
    assert is_per_cent(0) and is_per_cent(100.0) and not is_per_cent(100.1) and not is_per_cent(-1)


def test_entries_of_an_object_are_named_where_they_do_not_fit() -> None:
    kinds = {"name": is_text, "counts": list_of(is_whole), "shares": named(is_per_cent, "[a-z]+")}
    kinds |= {"note": or_none(is_text)}
    good: dict[str, Any] = {"name": "a", "counts": [1, 2], "shares": {"top": 5}, "note": None}
    check("it", good, kinds)
    wrong = [("name", 1), ("counts", [1, 2.5]), ("shares", {"Top": 5}), ("shares", {"top": 101}), ("note", 3)]
    for entry, value in wrong:
        with pytest.raises(ValueError, match=f"{entry} cannot be"):
            check("it", good | {entry: value}, kinds)
    with pytest.raises(ValueError, match="name, counts, shares, note"):
        check("it", {key: good[key] for key in ("name", "counts", "shares")}, kinds)
    with pytest.raises(ValueError, match="object"):
        check("it", [good], kinds)
    check("it", good | {"more": 1}, kinds)
    with pytest.raises(ValueError, match="not hold"):
        check("it", good | {"more": 1}, kinds, only=True)


@pytest.mark.parametrize("text", ["[1]", "1", "", "{", "[" * 100_000])
def test_a_file_that_holds_no_object_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011  (json's own where it is no JSON)
        read_object(tmp_path / "x.json")


def test_of_a_pipe_nobody_waits_for_the_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ValueError, match="not a file"):
        read_object(tmp_path / "config.json")
    assert is_saved(str(tmp_path)) and not is_ours(tmp_path)
