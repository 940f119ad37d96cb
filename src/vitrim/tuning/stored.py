"""Read what a search found from the tuned.json of its folder. The file may come from somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..kinds import is_number, is_text, list_of, read_object
from ..measure.paired import PairedLoss
from ..measure.turns import Spread
from ..tuned_folder import RESULT
from .outcome import TUNED, Row, Tuned


def found_in(folder: Path) -> Tuned:
    """What the search in a folder found. Raises ValueError for a file that vitrim tune does not write."""
    path = folder / RESULT
    try:
        content = read_object(path)
        own = {each.name: content[each.name] for each in fields(Tuned) if each.name in content}
        times = {part: {int(p): ms for p, ms in row.items()} for part, row in content.get("block_ms", {}).items()}
        rows = tuple(map(_row, content["rows"]))
        found = Tuned(**{**own, "rows": rows, "block_ms": times, "target": tuple(content["target"])})
        _check(found)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not what this version of vitrim tune writes ({error!r}).") from error
    return found


def _row(content: Mapping[str, Any]) -> Row:
    speed, paired = content["speedup"], content.get("paired")
    spread = Spread(speed["p10"], speed["median"], speed["p90"])
    own = {"speedup": spread, "interval": tuple(content["interval"]), "paired": paired and PairedLoss(**paired)}
    return Row(**{**content, **own})


def _check(found: Tuned) -> None:
    """ValueError for values that a page cannot show."""
    texts = (found.model, found.method, found.loss, *(row.name for row in found.rows), *found.notes)
    numbers = [x for row in found.rows for x in (*_speed(row), row.gmacs, row.latency_ms, row.divergence, row.lost)]
    numbers += [end for row in found.rows for end in row.interval] + list(found.schedule) + [found.seconds]
    if not list_of(is_text)(texts) or not list_of(is_number)(numbers):
        raise ValueError("a name is no text, or a number none")
    if [row.kind for row in found.rows].count(TUNED) != 1 or len(found.schedule) < 2:
        raise ValueError("there is not one tuned row, or no schedule")


def _speed(row: Row) -> tuple[float, float, float]:
    return row.speedup.low, row.speedup.median, row.speedup.high
