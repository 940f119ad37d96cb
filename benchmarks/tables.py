"""The tables of the README and of docs/, made of the newest rows in results/.

python -m benchmarks tables          # rewrites what stands between the <!-- results:... --> marks
python -m benchmarks tables --check  # exits with 1 if a document is not what the rows say
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vitrim.measure.turns import column_names

from .rows import RESULTS, Row, last_of, read

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "docs/speed.md", "docs/training.md", "docs/export.md")
SPREAD = "interleaved rounds (10th to 90th percentile)"
Cell = Callable[[Row], str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """What stands between two marks: a sentence, a line for each row, and where the rows come from."""

    files: str  # in results/
    about: Callable[[Sequence[Row]], str]
    columns: Mapping[str, Cell]
    key: Sequence[str] = ()  # columns that tell rows apart, if more than the newest file counts
    only: Callable[[Row], bool] = lambda row: True  # noqa: ARG005
    sort: Callable[[Row], Any] | None = None
    cpu: bool = True  # whether the processor is told
    after: Callable[[Sequence[Row]], str] = lambda rows: ""  # noqa: ARG005

    def text(self) -> str:
        """The table in Markdown."""
        rows, links = rows_of(self.files, self.key)
        rows = sorted(rows, key=self.sort) if self.sort else rows
        shown = [row for row in rows if self.only(row)]
        lines = grid(list(self.columns), ([cell(row) for cell in self.columns.values()] for row in shown))
        on = f", {rows[0]['cpu']}" if self.cpu else ""
        return f"{self.about(rows)}\n\n{lines}\n{self.after(rows)}\nRows: {links}{on}.\n"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The same with a line for each group of rows and a column for each kind of them."""

    files: str
    about: Callable[[Sequence[Row]], str]
    header: Callable[[Sequence[Row]], Sequence[str]]
    lines: Callable[[Sequence[Row]], Iterable[Sequence[str]]]
    key: Sequence[str] = ()
    after: Callable[[Sequence[Row]], str] = lambda rows: ""  # noqa: ARG005
    cpu: bool = False

    def text(self) -> str:
        """The table in Markdown."""
        rows, links = rows_of(self.files, self.key)
        on = f", {rows[0]['cpu']}" if self.cpu else ""
        lines = grid(self.header(rows), self.lines(rows))
        return f"{self.about(rows)}\n\n{lines}\n{self.after(rows)}\nRows: {links}{on}.\n"


def rows_of(files: str, key: Sequence[str]) -> tuple[list[Row], str]:
    """Rows of the newest file, and a link to it. With a key those of all files by the same torch, the last of each."""
    paths = sorted(RESULTS.glob(files), key=lambda path: path.stem[-10:])
    torch = paths[-1].stem.rpartition("_")[0]
    paths = [path for path in paths if key and path.stem.startswith(torch)] or paths[-1:]
    rows = [row for path in paths for row in read(path)]
    links = ", ".join(f"[{path.name}](results/{path.name})" for path in paths)
    return last_of(rows, *key) if key else rows, links


def grid(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Lines of a Markdown table."""
    head = f"| {' | '.join(header)} |".replace("|  |", "| |")
    return "\n".join([head, "|---" * len(header) + "|", *(f"| {' | '.join(line)} |" for line in lines)])


def rounded(name: str, unit: str = "", decimals: int = 2) -> Cell:
    """A number; nothing where it was not measured."""
    return lambda row: f"{float(row[name]):.{decimals}f}{unit}" if row[name] else ""


def measured(name: str) -> Cell:
    """**median** (10th to 90th percentile); nothing where it was not measured."""

    def cell(row: Row) -> str:
        if not row[name]:
            return ""
        median, low, high = (float(row[column]) for column in column_names(name))
        return f"**{median:.2f}** ({low:.2f} to {high:.2f})"

    return cell


def plain(name: str) -> Cell:
    return lambda row: row[name]


def model(row: Row) -> str:
    """Without patch size and resolution: 'deit_tiny'."""
    return row["model"].removesuffix("_patch16_224")


def num_rounds(rows: Sequence[Row]) -> str:
    """How many there were: '30', or '25 to 60'."""
    numbers = sorted({int(row["rounds"]) for row in rows})
    return " to ".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))


SPEED = {"MAC ratio": rounded("mac_ratio"), "speed-up": measured("speedup")}
SPEED |= {"of the MAC ratio": rounded("speedup_per_mac_ratio")}


def reduced(row: Row) -> bool:
    return row.get("method", row.get("setting")) not in ("unreduced", "no exits")


def how(row: Row) -> str:
    """What is not as usual in a row of the suite."""
    parts = [row["dtype"], *([] if row["compile"] == "no" else ["compiled"])]
    return ", ".join(parts + (["memory kept"] if row["malloc"] == "keep" else []))


def left_out(rows: Sequence[Row]) -> str:
    """What the suite did not measure, and why."""
    left = dict.fromkeys(
        f"- {model(row)}, {row['method']}, {row['img_size']} px, batch {row['batch']}, {row['dtype']}: {row['skipped']}"
        for row in rows
        if row["skipped"]
    )
    return "\n".join(["\nLeft out:\n", *left, ""]) if left else ""


def by_batch(rows: Sequence[Row]) -> tuple[dict[str, dict[str, Row]], list[str]]:
    """Rows of DeiT-Small by method and batch, and the batches, the largest first."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["model"].startswith("deit_small") and reduced(row):
            found.setdefault(row["method"], {})[row["batch"]] = row
    return found, sorted({batch for each in found.values() for batch in each}, key=int, reverse=True)


def short_speed_lines(rows: Sequence[Row]) -> Iterable[Sequence[str]]:
    methods, batches = by_batch(rows)
    for name, own in methods.items():
        yield [name, SPEED["MAC ratio"](own[batches[0]]), *(SPEED["speed-up"](own[batch]) for batch in batches)]


TITLES = {
    "evit": "EViT",
    "evit-nofuse": "EViT, no fusion (top-k)",
    "token_mergence": "TM",
    "beyond_attentive": "BAT",
    "evit+bat": "EViT + BAT",
    "tome": "ToMe, at EViT's MACs",
    "feature_norm": "feature norm",
    "random": "random",
}
RATES = ("0.9", "0.7", "0.5")
TRAINED = {
    "evit": "EViT",
    "metr": "EViT + METR",
    "metr-lr10": "EViT + METR, heads at ten times the learning rate",
    "token_mergence": "TM",
    "beyond_attentive": "BAT",
}


def accuracy_lines(rows: Sequence[Row]) -> Iterable[Sequence[str]]:
    drops = {(row["method"], row["setting"]): float(row["drop"]) for row in rows}
    for method, title in TITLES.items():
        yield [title, *(f"{drops[method, f'keep {rate}']:.1f}" for rate in RATES)]


def trained(rows: Sequence[Row], method: str, rate: str, updates: str) -> list[Row]:
    return [row for row in rows if (row["method"], row["keep_rate"], row["updates"]) == (method, rate, updates)]


def trained_columns(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Keep rates and updates."""
    long = max((row["updates"] for row in rows), key=int)
    return [*((rate, rows[0]["updates"]) for rate in ("0.7", "0.5", "0.3")), ("0.3", long)]


def mean_of_seeds(rows: Sequence[Row]) -> str:
    """Top-1, mean and standard deviation: '75.3 ± 0.2'; 'not run' without rows."""
    values = [float(row["top1"]) for row in rows]
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" if values else "not run"


def about_training(rows: Sequence[Row]) -> str:
    first = rows[0]
    base = trained(rows, "unreduced", "1.0", first["updates"])
    return (
        f"DeiT-Tiny at {first['img_size']} px, fine-tuned on imagenette by updates of {first['batch_size']} images; "
        f"top-1 on its {first['val_images']} validation images, mean ± standard deviation of {len(base)} seeds. "
        f"Unreduced: {mean_of_seeds(base)} %, {float(first['gmacs']):.3f} G."
    )


def training_lines(rows: Sequence[Row]) -> Iterable[Sequence[str]]:
    columns = trained_columns(rows)
    for method, title in TRAINED.items():
        yield [title, *(mean_of_seeds(trained(rows, method, *column)) for column in columns)]
    macs = (float(trained(rows, "evit", *column)[0]["gmacs"]) for column in columns)
    yield ["MACs (EViT)", *(f"{each:.3f} G" for each in macs)]


def left_early(row: Row) -> str:
    """Per cent of the images that leave after blocks 3, 6 and 9."""
    shares = [row[f"share_after_{layer}"] for layer in (3, 6, 9)]
    return " / ".join(f"{float(share):.0f} %" for share in shares) if all(shares) else ""


def int8_lines(rows: Sequence[Row]) -> Iterable[Sequence[str]]:
    pairs: dict[str, dict[str, Row]] = {}
    for row in rows:
        pairs.setdefault(f"{row['method']} {row['setting']}".strip(), {})[row["precision"]] = row
    for name, pair in pairs.items():
        both = (pair["fp32"], pair["int8"])
        accuracy, speed = (map(cell, both) for cell in (rounded("top1", " %", 1), measured("speedup")))
        yield [name, *accuracy, SPEED["MAC ratio"](both[0]), *speed]


def exported(rows: Sequence[Row]) -> tuple[dict[tuple[str, str], Row], list[str]]:
    """The last row of each method and route, and the reasons of those that were refused."""
    last = {(row["method"], row["route"]): row for row in rows}
    return last, list(dict.fromkeys(row["refused"] for row in last.values() if not row["worst_difference"]))


def routes(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["route"] for row in rows))


def export_lines(rows: Sequence[Row]) -> Iterable[Sequence[str]]:
    last, reasons = exported(rows)

    def cell(row: Row | None) -> str:
        if row is None:
            return "not tried"
        return row["worst_difference"] or f"no ({reasons.index(row['refused']) + 1})"

    for method in dict.fromkeys(row["method"] for row in rows):
        yield [method, *(cell(last.get((method, route))) for route in routes(rows))]


def not_written(rows: Sequence[Row]) -> str:
    """Why methods do not go through, numbered as in the cells."""
    reasons = [f"{i + 1}. {reason}" for i, reason in enumerate(exported(rows)[1])]
    return "\n".join([f"\nNot written ({len(reasons)} reasons):\n", *reasons, ""]) if reasons else ""


SMALL = "{img_size} px, {dtype}, {threads} CPU threads, median of {num} " + SPREAD


def told(text: str) -> Callable[[Sequence[Row]], str]:
    """A sentence with values of the first row, and the number of rounds."""
    return lambda rows: text.format(**rows[0], num=num_rounds(rows) if "rounds" in rows[0] else "")


CELL = ("model", "method", "batch")
TABLES: dict[str, Table | Grid] = {
    "speed": Table(
        files="speed_*.csv",
        key=CELL,
        about=told(f"Measured speed-up over the unreduced model at {SMALL}:"),
        only=reduced,
        columns={"model": model, "method": plain("method"), "batch": plain("batch"), **SPEED},
    ),
    "speed_short": Grid(
        files="speed_*.csv",
        key=CELL,
        about=lambda rows: told(f"Speed of DeiT-Small over the unreduced model at {SMALL}:")(
            [row for own in by_batch(rows)[0].values() for row in own.values()]
        ),
        header=lambda rows: ["method", "MAC ratio", *(f"batch {batch}" for batch in by_batch(rows)[1])],
        lines=short_speed_lines,
        cpu=True,
    ),
    "suite": Table(
        files="suite_*.csv",
        key=("model", "img_size", "batch", "dtype", "compile", "method", "malloc", "threads", "device"),
        sort=lambda row: (row["model"], row["method"], int(row["img_size"]), int(row["batch"])),
        about=lambda rows: (
            "Speed over the unreduced model, and speed and peak memory over the way research code works, which forms "
            f"the attention matrix (same weights, equal outputs); {rows[0]['threads']} threads of {rows[0]['cpu']}, "
            f"medians of {SPREAD}:"
        ),
        only=lambda row: bool(row["speedup"]),
        columns={
            "model": model,
            "method": plain("method"),
            "px": plain("img_size"),
            "batch": plain("batch"),
            "": how,
            **SPEED,
            "over the matrix way": measured("over_matrix"),
            "memory of it": rounded("memory_of_matrix"),
        },
        after=left_out,
        cpu=False,
    ),
    "packed": Table(
        files="packed_*.csv",
        key=("model", "batch", "patches"),
        about=told("{dtype}, {threads} CPU threads, median of {num} " + SPREAD + ":"),
        columns={
            "model": model,
            "batch": plain("batch"),
            "patches kept": plain("patches"),
            "MACs of the unreduced": rounded("macs_share"),
            "time of the unreduced": rounded("over_unreduced"),
            "time over implied": measured("over_implied"),
        },
    ),
    "training_speed": Table(
        files="training_speed_*.csv",
        key=CELL,
        about=told(
            "Speed of a training update over the unreduced model's: DeiT-Tiny at {img_size} px, batch {batch}, fp32, "
            "{threads} CPU threads, median of {num} " + SPREAD + "."
        ),
        only=reduced,
        columns={"method": plain("method"), **SPEED},
        cpu=False,
    ),
    "export_speed": Table(
        files="export_speed_*.csv",
        key=("route", *CELL),
        about=told(
            "Reduced against unreduced by the same route, and the artefact against eager, at 224 px, fp32, {threads} "
            "CPU threads, median of {num} " + SPREAD + ":"
        ),
        columns={
            "route": plain("route"),
            "model": model,
            "method": plain("method"),
            "batch": plain("batch"),
            **SPEED,
            "over eager": measured("over_eager"),
        },
    ),
    "export": Grid(
        files="export_torch*.csv",
        key=("method", "route"),
        about=lambda _: "Largest difference between a logit of the artefact and of eager, over batches of 1 and 7.",
        header=lambda rows: ["method", *routes(rows)],
        lines=export_lines,
        after=not_written,
    ),
    "accuracy": Grid(
        files="accuracy_*.csv",
        about=lambda rows: (
            f"Top-1 lost by DeiT-Tiny without any training, in points, on {rows[0]['num_images']} ImageNet validation "
            f"images (unreduced: {float(rows[0]['top1']):.1f} %; easier than the full set, so compare drops only):"
        ),
        header=lambda _: ["method", *(f"keep {rate}" for rate in RATES)],
        lines=accuracy_lines,
    ),
    "training": Grid(
        files="imagenette_*.csv",
        key=("method", "keep_rate", "seed", "updates"),
        about=about_training,
        header=lambda rows: [
            "trained with",
            *(f"keep {rate}, {updates} updates" for rate, updates in trained_columns(rows)),
        ],
        lines=training_lines,
    ),
    "anytime": Table(
        files="anytime_*.csv",
        about=told(
            "DeiT-Tiny at 96 px, trained on imagenette with METR at keep 0.7 (401 updates, heads at ten times the "
            "learning rate); {images} validation images; speed on two CPU cores, median of {num} " + SPREAD + "."
        ),
        only=reduced,
        columns={
            "setting": plain("setting"),
            "top-1": rounded("top1", " %", 1),
            "leave after block 3 / 6 / 9": left_early,
            "GMACs": rounded("gmacs", decimals=3),
            "speed": measured("speedup"),
        },
        cpu=False,
    ),
    "int8": Grid(
        files="int8_*.csv",
        about=told(
            "DeiT-Tiny on {num_images} ImageNet validation images, compiled, {threads} CPU threads, batch {batch}; "
            "speed over the unreduced model in fp32, compiled too, median of {num} " + SPREAD + ":"
        ),
        header=lambda _: ["method", "top-1 fp32", "top-1 int8", "MAC ratio", "speed fp32", "speed int8"],
        lines=int8_lines,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(arguments).check
    stale = []
    for name in DOCUMENTS:
        before = (ROOT / name).read_text()
        after = with_tables(before)
        if name.startswith("docs/"):
            after = after.replace("](results/", "](../results/")
        if before != after:
            stale.append(name)
            if not check:
                (ROOT / name).write_text(after)
    if check and stale:
        print(f"{' and '.join(stale)}: not what results/ says; run python -m benchmarks tables.")
    return 1 if check and stale else 0


def _between(made: str, match: re.Match[str]) -> str:
    return f"{match[1]}{made}{match[2]}"


def with_tables(text: str) -> str:
    """The text with all tables made afresh."""
    for name, table in TABLES.items():
        if f"<!-- results:{name} -->" in text:
            pattern = rf"(<!-- results:{name} -->\n).*?(<!-- results:end -->)"
            made = table.text()
            text = re.sub(pattern, partial(_between, made), text, flags=re.S)
    return text
