"""What tests of every method on every family share."""

from __future__ import annotations

import pytest

from vitrim.backbones.reader import Backbone

CHECKED: set[str] = set()  # families


@pytest.fixture(autouse=True)
def _blocks_of_a_family_are_checked_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are read rightly: that takes a third of the time of such a test, and its models are all the same."""
    callspec = getattr(request.node, "callspec", None)
    family = None if callspec is None else callspec.params.get("family")
    if not isinstance(family, str):
        return
    errors = Backbone.errors

    def once(backbone: Backbone) -> list[float]:
        if family in CHECKED:
            return [0.0] * len(backbone.readers)
        found = errors(backbone)
        CHECKED.add(family)
        return found

    monkeypatch.setattr(Backbone, "errors", once)
