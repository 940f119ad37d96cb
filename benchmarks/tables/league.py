"""The league table of docs/league.md, and its short form in the README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vitrim.measure.turns import column_names

from .. import rows as recorded
from ..rows import Row
from .table import SPREAD, Grid, Table, num_rounds, rows_of

SPEEDS = "league_speed_*.csv"
KEY = ("model", "target", "method")
RATIOS = ("1.25", "1.5", "2.0")
NAMES = {
    "resolution": "a smaller input",
    "depth": "the first blocks alone",
    "int8": "int8",
    "unread": "last MLP on the class token alone",
}
SHORT = (  # methods of the README
    *("ward", "tome", "ppt", "diffrate", "evit", "token_mergence", "beyond_attentive"),
)
BATCHES = ("32", "1")


BY_RATE = {
    "evit": "EViT",
    "evit-nofuse": "EViT, no fusion (top-k)",
    "token_mergence": "TM",
    "beyond_attentive": "BAT",
    "evit+bat": "EViT + BAT",
    "tome": "ToMe, at EViT's MACs",
    "feature_norm": "feature norm",
    "random": "random",
}
KEEP_RATES = ("0.9", "0.7", "0.5")


def loss(row: Row) -> str:
    """Points lost with their interval: '0.9 (0.1 to 1.7)'."""
    lost, low, high = (
        round(float(row[name]), 1) + 0.0 for name in ("lost_points", "interval_low", "interval_high")
    )  # no minus before a zero
    return f"{lost:.1f} ({low:.1f} to {high:.1f})"


def title(row: Row) -> str:
    """The name of a line; a rival says that it is one."""
    if row["kind"] == "method":
        return f"`{row['method']}`"
    name = NAMES.get(row["method"], row["method"])
    return f"*rival:* {name}" if row["kind"] == "rival" else name


def setting(row: Row) -> str:
    """What was set to meet the ratio; a long list of numbers in short."""
    return row["setting"] if len(row["setting"]) < 24 else "by the solver"


def at(rows: Sequence[Row], ratio: str) -> list[Row]:
    """The measured rows at a ratio, the smallest loss first."""
    found = [row for row in rows if row["target"] == ratio and row["lost_points"]]
    return sorted(found, key=lambda row: (float(row["lost_points"]), float(row["divergence"])))


def speeds() -> tuple[dict[tuple[str, ...], Row], str]:
    """The rows of speed by method, ratio and batch, and the files that they are in. Empty before any is measured."""
    if not any(recorded.RESULTS.glob(SPEEDS)):
        return {}, ""
    rows, links = rows_of(SPEEDS, (*KEY, "batch"))
    return {(row["method"], row["target"], row["batch"]): row for row in rows if row["speedup"]}, links


def speed(row: Row | None) -> str:
    """**median** (10th to 90th percentile)."""
    if row is None:
        return ""
    median, low, high = (float(row[column]) for column in column_names("speedup"))
    return f"**{median:.2f}** ({low:.2f} to {high:.2f})"


def beaten(rows: Sequence[Row], ratio: str) -> str:
    """How many methods lose more than the smaller input that costs less, in a sentence."""
    found = at(rows, ratio)
    plain = next((row for row in found if row["method"] == "resolution"), None)
    methods = [row for row in found if row["kind"] == "method"]
    if plain is None or not methods:
        return ""
    behind = [row for row in methods if float(row["lost_points"]) > float(plain["lost_points"])]
    return (
        f"A plain input of {plain['setting']}, at a MAC ratio of {float(plain['mac_ratio']):.2f}, loses "
        f"{float(plain['lost_points']):.1f} points; {len(behind)} of the {len(methods)} methods here lose more."
    )


def about_images(rows: Sequence[Row]) -> str:
    first = next(row for row in rows if row["num_images"])
    whole = next((row for row in rows if row["kind"] == "unreduced"), None)
    base = f" (unreduced: {float(whole['top1']):.1f} %, {float(whole['gmacs']):.3f} GMACs)" if whole else ""
    return f"{first['num_images']} ImageNet validation images{base}"


@dataclass(frozen=True, kw_only=True)
class League(Table):
    """Accuracy rows, with the speeds of the same contenders beside them."""

    def text(self) -> str:
        """The table in Markdown, and where both kinds of rows are."""
        before, there = speeds()
        made = super().text()
        return made.replace("Rows: ", f"Rows: {there}, ") if before else made


@dataclass(frozen=True, kw_only=True)
class AtRatio(League):
    """All contenders at one ratio."""

    ratio: str

    def text(self) -> str:
        """The table, or that nothing is measured yet."""
        rows, _ = rows_of(self.files, self.key)
        return super().text() if at(rows, self.ratio) else f"At {float(self.ratio):g}: not measured yet.\n"

    def header(self, rows: Sequence[Row]) -> Sequence[str]:
        batches = [f"speed-up, batch {batch}" for batch in BATCHES] if speeds()[0] else []
        return ["", "set to", "MAC ratio", "points lost (95 % interval)", "images lost / won", "divergence", *batches]

    def lines(self, rows: Sequence[Row]) -> Iterable[Sequence[str]]:
        measured, _ = speeds()
        for row in at(rows, self.ratio):
            own = [speed(measured.get((row["method"], self.ratio, batch))) for batch in BATCHES] if measured else []
            changed = f"{row['images_lost']} / {row['images_won']}"
            numbers = (f"{float(row['mac_ratio']):.2f}", loss(row), changed, f"{float(row['divergence']):.4f}")
            yield [title(row), setting(row), *numbers, *own]


@dataclass(frozen=True, kw_only=True)
class Short(League):
    """Some contenders at all ratios."""

    def header(self, rows: Sequence[Row]) -> Sequence[str]:
        batches = [f"speed at 1.5x, batch {batch}" for batch in BATCHES] if speeds()[0] else []
        return ["", *(f"{float(ratio):g}x" for ratio in RATIOS), *batches]

    def lines(self, rows: Sequence[Row]) -> Iterable[Sequence[str]]:
        measured, _ = speeds()
        by_place = {(row["method"], ratio): row for ratio in RATIOS for row in at(rows, ratio)}
        order = [row["method"] for ratio in ("1.5", "2.0", "1.25") for row in at(rows, ratio)]
        for name in dict.fromkeys(order):
            found = [by_place.get((name, ratio)) for ratio in RATIOS]
            first = next(row for row in found if row is not None)
            if name in SHORT or first["kind"] == "rival":
                own = [speed(measured.get((name, "1.5", batch))) for batch in BATCHES] if measured else []
                yield [title(first), *(self.cell(row) for row in found), *own]

    @staticmethod
    def cell(row: Row | None) -> str:
        """Points lost; a rival, which comes in steps, says which it is."""
        if row is None:
            return ""
        return loss(row) + (f", {row['setting']}" if row["kind"] == "rival" else "")


def reasons(rows: Sequence[Row]) -> str:
    """Contenders without a row, and why."""
    by_reason: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        if row["reason"]:
            by_reason.setdefault(row["method"], {}).setdefault(row["reason"], []).append(row["target"])
    lines = [
        f"- `{name}`{'' if len(ratios) == len(RATIOS) else ' at ' + ' and '.join(ratios) + 'x'}: {why}"
        for name, own in by_reason.items()
        for why, ratios in own.items()
    ]
    return "\n".join(["\nWithout a row:\n", *lines, ""]) if lines else ""


def at_ratio(ratio: str) -> AtRatio:
    """The table of one ratio."""
    return AtRatio(
        files="league_accuracy_*.csv",
        key=KEY,
        ratio=ratio,
        about=lambda rows: (
            f"At {float(ratio):g} times fewer multiply-adds, on {about_images(rows)}. {beaten(rows, ratio)}"
        ),
        cpu=False,
    )


def about_short(rows: Sequence[Row]) -> str:
    timed = list(speeds()[0].values())
    speed_words = (
        f"; speed over the unreduced model, {timed[0]['threads']} CPU threads, median of {num_rounds(timed)} {SPREAD}"
        if timed
        else ""
    )
    return (
        "Points of top-1 that DeiT-Tiny loses off the shelf, without training or tuning, at 1.25, 1.5 and 2 times "
        f"fewer multiply-adds, with a paired 95 % interval, on {about_images(rows)}{speed_words}:"
    )


def accuracy_lines(rows: Sequence[Row]) -> Iterable[Sequence[str]]:
    drops = {(row["method"], row["setting"]): float(row["drop"]) for row in rows}
    for method, title in BY_RATE.items():
        yield [title, *(f"{drops[method, f'keep {rate}']:.1f}" for rate in KEEP_RATES)]


TABLES: dict[str, Table] = {
    "league_1.25": at_ratio("1.25"),
    "league_1.5": at_ratio("1.5"),
    "league_2": at_ratio("2.0"),
    "league_always": AtRatio(
        files="league_accuracy_*.csv",
        key=KEY,
        ratio="1.0",
        about=lambda _: "Rivals that have no ratio:",
        after=reasons,
        cpu=False,
    ),
    "accuracy": Grid(
        files="accuracy_*.csv",
        about=lambda rows: (
            f"Top-1 lost by DeiT-Tiny without any training, in points, on {rows[0]['num_images']} ImageNet validation "
            f"images (unreduced: {float(rows[0]['top1']):.1f} %; easier than the full set, so compare drops only):"
        ),
        header_of=lambda _: ["method", *(f"keep {rate}" for rate in KEEP_RATES)],
        lines_of=accuracy_lines,
        cpu=False,
    ),
}
README: dict[str, Table] = {
    "league_short": Short(files="league_accuracy_*.csv", key=KEY, about=about_short, cpu=False),
}
