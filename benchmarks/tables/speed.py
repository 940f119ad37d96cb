"""The tables of docs/speed.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..rows import Row
from .table import CELL, SPEED, SPREAD, Grid, List, Table, measured, model, plain, reduced, rounded, told


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


def int8_lines(rows: Sequence[Row]) -> Iterable[Sequence[str]]:
    pairs: dict[str, dict[str, Row]] = {}
    for row in rows:
        pairs.setdefault(f"{row['method']} {row['setting']}".strip(), {})[row["precision"]] = row
    for name, pair in pairs.items():
        both = (pair["fp32"], pair["int8"])
        accuracy, speed = (map(cell, both) for cell in (rounded("top1", " %", 1), measured("speedup")))
        yield [name, *accuracy, SPEED["MAC ratio"](both[0]), *speed]


TABLES: dict[str, Table] = {
    "speed": List(
        files="speed_*.csv",
        key=CELL,
        about=told(
            "Measured speed-up over the unreduced model at {img_size} px, {dtype}, {threads} CPU threads, median of "
            "{num} " + SPREAD + ":"
        ),
        only=reduced,
        columns={"model": model, "method": plain("method"), "batch": plain("batch"), **SPEED},
    ),
    "suite": List(
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
    "packed": List(
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
    "export_speed": List(
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
    "int8": Grid(
        files="int8_*.csv",
        about=told(
            "DeiT-Tiny on {num_images} ImageNet validation images, compiled, {threads} CPU threads, batch {batch}; "
            "speed over the unreduced model in fp32, compiled too, median of {num} " + SPREAD + ":"
        ),
        header_of=lambda _: ["method", "top-1 fp32", "top-1 int8", "MAC ratio", "speed fp32", "speed int8"],
        lines_of=int8_lines,
        cpu=False,
    ),
}
