"""Write the tables of the README and of docs/ from the newest rows in results/.

python benchmarks/tables.py          # rewrites what stands between the <!-- results:... --> marks
python benchmarks/tables.py --check  # exits with 1 if a document is not what the rows say

The table of docs/export.md is made by export_table.py.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "docs/speed.md", "docs/training.md")
CELL = ("model", "img_size", "batch", "dtype", "compile", "method", "sizes", "malloc", "threads", "device")
RATES = ("0.9", "0.7", "0.5")
SPREAD = "interleaved rounds (10th to 90th percentile)"
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

TRAINED = {
    "evit": "EViT",
    "metr": "EViT + METR",
    "metr-lr10": "EViT + METR, heads at ten times the learning rate",
    "token_mergence": "TM",
    "beyond_attentive": "BAT",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
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
        sys.exit(f"{' and '.join(stale)}: not what results/ says; run python benchmarks/tables.py.")


def with_tables(text: str) -> str:
    """The text with all tables made afresh."""
    tables = {
        "accuracy": accuracy_table,
        "speed": speed_table,
        "speed_short": short_speed_table,
        "suite": suite_table,
        "training": training_table,
        "training_speed": training_speed_table,
        "anytime": anytime_table,
        "packed": packed_table,
        "export_speed": export_speed_table,
        "int8": int8_table,
    }
    for name, table in tables.items():
        if f"<!-- results:{name} -->" not in text:
            continue
        pattern = rf"(<!-- results:{name} -->\n).*?(<!-- results:end -->)"
        made = table()
        text = re.sub(pattern, lambda match, made=made: f"{match[1]}{made}{match[2]}", text, flags=re.S)
    return text


def accuracy_table() -> str:
    """Drop in top-1 of each method at each keep rate, from the rows of `vitrim compare`."""
    path, rows = newest("accuracy_*.csv")
    base = rows[0]
    drops = {(row["method"], row["setting"]): float(row["drop"]) for row in rows[1:]}
    lines = [
        f"Top-1 lost by DeiT-Tiny without any training, in points, on {base['num_images']} ImageNet validation "
        f"images (unreduced: {float(base['top1']):.1f} %; easier than the full set, so compare drops only):\n",
        "| method | " + " | ".join(f"keep {rate}" for rate in RATES) + " |",
        "|---|" + "---|" * len(RATES),
    ]
    for method, title in TITLES.items():
        cells = [f"{drops[method, f'keep {rate}']:.1f}" for rate in RATES]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Rows: [{path.name}](results/{path.name}).", ""])


def speed_table() -> str:
    """Speed-up over the unreduced model beside the MAC ratio, from the rows of benchmarks/speed.py."""
    path, rows = newest("speed_*.csv")
    rows = last_of(rows, "model", "method", "batch")
    first = rows[0]
    lines = [
        f"Measured speed-up over the unreduced model at {first['img_size']} px, {first['dtype']}, {first['threads']} "
        f"CPU threads, median of {_rounds(rows)} {SPREAD}:\n",
        "| model | method | batch | MAC ratio | speed-up | of the MAC ratio |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["method"] == "unreduced":
            continue
        spread = f"{float(row['speedup_p10']):.2f} to {float(row['speedup_p90']):.2f}"
        lines.append(
            f"| {row['model'].removesuffix('_patch16_224')} | {row['method']} | {row['batch']} | "
            f"{float(row['mac_ratio']):.2f} | **{float(row['speedup']):.2f}** ({spread}) | "
            f"{float(row['speedup_per_mac_ratio']):.2f} |"
        )
    return "\n".join([*lines, "", f"Rows: [{path.name}](results/{path.name}), {first['cpu']}.", ""])


def short_speed_table() -> str:
    """One line a method for one model, from the same rows."""
    path, rows = newest("speed_*.csv")
    rows = [row for row in rows if row["model"].startswith("deit_small") and row["method"] != "unreduced"]
    rows = last_of(rows, "method", "batch")
    first, batches = rows[0], sorted({row["batch"] for row in rows}, key=int, reverse=True)
    lines = [
        f"Speed of DeiT-Small over the unreduced model at {first['img_size']} px, {first['dtype']}, {first['threads']} "
        f"CPU threads, median of {_rounds(rows)} {SPREAD}:\n",
        "| method | MAC ratio | " + " | ".join(f"batch {batch}" for batch in batches) + " |",
        "|---|---|" + "---|" * len(batches),
    ]
    for method in dict.fromkeys(row["method"] for row in rows):
        of_batch = {row["batch"]: row for row in rows if row["method"] == method}
        cells = [_measured(of_batch[batch], "speedup") for batch in batches]
        lines.append(f"| {method} | {float(of_batch[batches[0]]['mac_ratio']):.2f} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Rows: [{path.name}](results/{path.name}), {first['cpu']}.", ""])


def packed_table() -> str:
    """Time of packed batches over what their multiply-adds imply, from the rows of benchmarks/packed.py."""
    path, rows = newest("packed_*.csv")
    rows = last_of(rows, "model", "batch", "patches")
    first = rows[0]
    lines = [
        f"{first['dtype']}, {first['threads']} CPU threads, median of {_rounds(rows)} {SPREAD}:\n",
        "| model | batch | patches kept | MACs of the unreduced | time of the unreduced | time over implied |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['model'].removesuffix('_patch16_224')} | {row['batch']} | {row['patches']} | "
            f"{_rounded(row, 'macs_share')} | {_rounded(row, 'over_unreduced')} | {_measured(row, 'over_implied')} |"
        )
    return "\n".join([*lines, "", f"Rows: [{path.name}](results/{path.name}), {first['cpu']}.", ""])


def export_speed_table() -> str:
    """Exported reduced models over exported unreduced ones, from the rows of benchmarks/export_speed.py."""
    path, rows = newest("export_speed_*.csv")
    rows = last_of(rows, "route", "model", "method", "batch")
    first = rows[0]
    lines = [
        "Reduced against unreduced by the same route, and the artefact against eager, at 224 px, fp32, "
        f"{first['threads']} CPU threads, median of {_rounds(rows)} {SPREAD}:\n",
        "| route | model | method | batch | MAC ratio | speed-up | of the MAC ratio | over eager |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['route']} | {row['model'].removesuffix('_patch16_224')} | {row['method']} | {row['batch']} | "
            f"{_rounded(row, 'mac_ratio')} | {_measured(row, 'speedup')} | {_rounded(row, 'speedup_per_mac_ratio')} | "
            f"{_measured(row, 'over_eager')} |"
        )
    return "\n".join([*lines, "", f"Rows: [{path.name}](results/{path.name}), {first['cpu']}.", ""])


def int8_table() -> str:
    """fp32 beside int8, from the rows of `vitrim compare --int8 --compile`."""
    path, rows = newest("int8_*.csv")
    first = rows[0]
    pairs: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in rows:
        pairs.setdefault((row["method"], row["setting"]), {})[row["precision"]] = row
    lines = [
        f"DeiT-Tiny on {first['num_images']} ImageNet validation images, compiled, {first['threads']} CPU threads, "
        f"batch {first['batch']}; speed over the unreduced model in fp32, compiled too, median of {first['rounds']} "
        f"{SPREAD}:\n",
        "| method | top-1 fp32 | top-1 int8 | MAC ratio | speed fp32 | speed int8 |",
        "|---|---|---|---|---|---|",
    ]
    for (method, setting), pair in pairs.items():
        whole, small = pair["fp32"], pair["int8"]
        accuracy = f"{float(whole['top1']):.1f} % | {float(small['top1']):.1f} %"
        speed = f"{_measured(whole, 'speedup')} | {_measured(small, 'speedup')}"
        lines.append(f"| {f'{method} {setting}'.strip()} | {accuracy} | {float(whole['mac_ratio']):.2f} | {speed} |")
    return "\n".join([*lines, "", f"Rows: [{path.name}](results/{path.name}).", ""])


def suite_table() -> str:
    """Against the unreduced model and the full attention matrix, from the rows of benchmarks/suite.py."""
    paths = sorted((ROOT / "results").glob("suite_*.csv"), key=lambda path: path.stem[-10:])
    rows = [row for path in paths for row in read(path)]
    first = rows[0]
    rows = last_of(rows, *CELL)
    rows.sort(key=lambda row: (row["model"], row["method"], int(row["img_size"]), int(row["batch"])))
    lines = [
        "Speed over the unreduced model, and speed and peak memory over the way research code works, which forms the "
        f"attention matrix (same weights, equal outputs); {first['threads']} threads of {first['cpu']}, medians of "
        "interleaved rounds (10th to 90th percentile):\n",
        "| model | method | px | batch | | MAC ratio | speed-up | of the MAC ratio | over the matrix way "
        "| memory of it |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if not row["speedup"]:
            continue
        how = [row["dtype"], *([] if row["compile"] == "no" else ["compiled"])]
        how += ["sizes folded"] if row["sizes"] == "folded" else []
        how += ["memory kept"] if row["malloc"] == "keep" else []
        lines.append(
            f"| {row['model'].removesuffix('_patch16_224')} | {row['method']} | {row['img_size']} | {row['batch']} | "
            f"{', '.join(how)} | {_rounded(row, 'mac_ratio')} | {_measured(row, 'speedup')} | "
            f"{_rounded(row, 'speedup_per_mac_ratio')} | {_measured(row, 'over_matrix')} | "
            f"{_rounded(row, 'memory_of_matrix')} |"
        )
    left = dict.fromkeys(
        f"{row['model'].removesuffix('_patch16_224')}, {row['method']}, {row['img_size']} px, batch {row['batch']}, "
        f"{row['dtype']}: {row['skipped']}"
        for row in rows
        if row["skipped"]
    )
    skipped = [f"\nLeft out: {'; '.join(left)}."] if left else []
    links = ", ".join(f"[{path.name}](results/{path.name})" for path in paths)
    return "\n".join([*lines, *skipped, "", f"Rows: {links}.", ""])


def _rounded(row: dict[str, str], name: str) -> str:
    """To two decimals; nothing where it was not measured."""
    return f"{float(row[name]):.2f}" if row[name] else ""


def _measured(row: dict[str, str], name: str) -> str:
    """**median** (10th to 90th percentile); nothing where it was not measured."""
    if not row[name]:
        return ""
    return f"**{float(row[name]):.2f}** ({float(row[f'{name}_p10']):.2f} to {float(row[f'{name}_p90']):.2f})"


def training_table() -> str:
    """Top-1 after fine-tuning, mean and standard deviation over seeds, from the rows of benchmarks/imagenette.py."""
    path, rows = newest("imagenette_*.csv")
    first, rates = rows[0], ("0.7", "0.5", "0.3")
    runs: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        runs.setdefault((row["method"], row["keep_rate"], row["updates"]), []).append(row)
    long = max((row["updates"] for row in rows), key=int)
    columns = [*((rate, first["updates"]) for rate in rates), ("0.3", long)]
    base = runs["unreduced", "1.0", first["updates"]]
    lines = [
        f"DeiT-Tiny at {first['img_size']} px, fine-tuned on imagenette by updates of {first['batch_size']} images; "
        f"top-1 on its {first['val_images']} validation images, mean ± standard deviation of {len(base)} seeds. "
        f"Unreduced: {_spread(base)} %, {float(first['gmacs']):.3f} G.\n",
        "| trained with | " + " | ".join(f"keep {rate}, {updates} updates" for rate, updates in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for method, title in TRAINED.items():
        cells = [_spread(runs.get((method, *column), [])) for column in columns]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    macs = [f"{float(runs[('evit', *column)][0]['gmacs']):.3f} G" for column in columns]
    lines.append("| MACs (EViT) | " + " | ".join(macs) + " |")
    return "\n".join([*lines, "", f"Rows: [{path.name}](results/{path.name}).", ""])


def training_speed_table() -> str:
    """Speed of a training update over the unreduced model's, from the rows of benchmarks/training_speed.py."""
    path, rows = newest("training_speed_*.csv")
    first = rows[0]
    lines = [
        f"Speed of a training update over the unreduced model's: DeiT-Tiny at {first['img_size']} px, batch "
        f"{first['batch']}, fp32, {first['threads']} CPU threads, median of {first['rounds']} interleaved rounds (10th "
        "to 90th percentile).\n",
        "| method | MAC ratio | speed-up | of the MAC ratio |",
        "|---|---|---|---|",
    ]
    for row in rows[1:]:
        spread = f"{float(row['speedup_p10']):.2f} to {float(row['speedup_p90']):.2f}"
        lines.append(
            f"| {row['method']} | {float(row['mac_ratio']):.2f} | **{float(row['speedup']):.2f}** ({spread}) | "
            f"{float(row['speedup_per_mac_ratio']):.2f} |"
        )
    return "\n".join([*lines, "", f"Rows: [{path.name}](results/{path.name}).", ""])


def anytime_table() -> str:
    """Accuracy against measured speed, with exits and with static keep rates, from the rows of `vitrim anytime`."""
    path, rows = newest("anytime_*.csv")
    lines = [
        "DeiT-Tiny at 96 px, trained on imagenette with METR at keep 0.7 (401 updates, heads at ten times the learning "
        f"rate); {rows[0]['images']} validation images; speed on two CPU cores, median of {rows[0]['rounds']} "
        "interleaved rounds (10th to 90th percentile).\n",
        "| setting | top-1 | leave after block 3 / 6 / 9 | GMACs | speed |",
        "|---|---|---|---|---|",
    ]
    for row in rows[1:]:
        shares = [row[f"share_after_{layer}"] for layer in (3, 6, 9)]
        left = " / ".join(f"{float(share):.0f} %" for share in shares) if all(shares) else ""
        speed = f"**{float(row['ratio']):.2f}** ({float(row['ratio_low']):.2f} to {float(row['ratio_high']):.2f})"
        lines.append(
            f"| {row['setting']} | {float(row['top1']):.1f} % | {left} | {float(row['gmacs']):.3f} | {speed} |"
        )
    return "\n".join([*lines, "", f"Rows: [{path.name}](results/{path.name}).", ""])


def _spread(rows: list[dict[str, str]]) -> str:
    values = [float(row["top1"]) for row in rows]
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" if values else "not run"


def _rounds(rows: list[dict[str, str]]) -> str:
    """How many there were: '30', or '25 to 60'."""
    numbers = sorted({int(row["rounds"]) for row in rows})
    return " to ".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))


def last_of(rows: list[dict[str, str]], *cell: str) -> list[dict[str, str]]:
    """Of the rows with the same values there, the last, in the first one's place."""
    return list({tuple(row[key] for key in cell): row for row in rows}.values())


def newest(pattern: str) -> tuple[Path, list[dict[str, str]]]:
    """The last file of that pattern, by the date in its name, and its rows."""
    path = max((ROOT / "results").glob(pattern), key=lambda path: path.stem[-10:])
    return path, read(path)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
