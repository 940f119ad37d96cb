"""The colour and the mark of each method, the same in every report, chart and picture.

Six colours stay apart for people with any kind of colour blindness, at 3:1 against the page in light and in dark. The
mark tells methods of one colour apart. Both follow from the method's name alone.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

COLORS = ("#408bf1", "#692300", "#017046", "#f1579e", "#a18b32", "#480099")  # on a light page
DARK = ("#5f92ee", "#f68e61", "#8df6d4", "#b97a94", "#fbdd67", "#afa5dd")  # the same hues on a dark one
MARKS = ("o", "s", "^", "D", "v", "p", "h")  # as matplotlib calls them
UNREDUCED, RIVALS = "unreduced", {"resolution": "X", "depth": "P", "model": "*", "int8": "d", "unread": "8"}
INK, SOFT = "currentColor", "var(--soft)"

KNOWN = (  # in the order in which looks are given out; new names go to the end
    *("evit", "tome", "token_mergence", "beyond_attentive", "ward", "diffrate"),
    *("ppt", "pitome", "tofu", "gtp", "atc", "vid_tldr"),
    *("dtem", "ltmp", "metr", "attention_mass", "representation_shift", "evit-nofuse"),
    *("evit+bat", "feature_norm", "random"),
)


class Look(NamedTuple):
    """How a method is drawn: a colour of a page's style, its value on a light page, and a mark of matplotlib."""

    color: str  # "var(--m0)", or "currentColor"
    light: str
    mark: str


def look_of(method: str, rival: str = "") -> Look:
    """The look of a method by its name. rival: the kind, of a row that is no method; rivals have no colour.

    The unreduced model is a star in the colour of the text.
    """
    if rival:
        return Look(SOFT, "#5b6775", RIVALS.get(rival, "X"))
    if method == UNREDUCED:
        return Look(INK, "#16202c", "*")
    number = KNOWN.index(method) if method in KNOWN else zlib.crc32(method.encode(errors="replace"))
    color = number % len(COLORS)
    return Look(f"var(--m{color})", COLORS[color], MARKS[number // len(COLORS) % len(MARKS)])
