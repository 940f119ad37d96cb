"""Tables of speed: over unreduced models, over the full attention matrix, exported, packed, in training."""

from __future__ import annotations

from cells import SPREAD, measured, num_rounds, rounded, short_name, with_source

from rows import RESULTS, last_of, newest, read

CELL = ("model", "img_size", "batch", "dtype", "compile", "method", "sizes", "malloc", "threads", "device")


def speed_table() -> str:
    """Speed-up over the unreduced model beside the MAC ratio, from the rows of benchmarks/speed.py."""
    path, rows = newest("speed_*.csv")
    rows = last_of(rows, "model", "method", "batch")
    first = rows[0]
    lines = [
        f"Measured speed-up over the unreduced model at {first['img_size']} px, {first['dtype']}, {first['threads']} "
        f"CPU threads, median of {num_rounds(rows)} {SPREAD}:\n",
        "| model | method | batch | MAC ratio | speed-up | of the MAC ratio |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["method"] == "unreduced":
            continue
        lines.append(
            f"| {short_name(row)} | {row['method']} | {row['batch']} | "
            f"{rounded(row, 'mac_ratio')} | {measured(row, 'speedup')} | "
            f"{rounded(row, 'speedup_per_mac_ratio')} |"
        )
    return with_source(lines, path, first["cpu"])


def short_speed_table() -> str:
    """One line a method for one model, from the same rows."""
    path, rows = newest("speed_*.csv")
    rows = [row for row in rows if row["model"].startswith("deit_small") and row["method"] != "unreduced"]
    rows = last_of(rows, "method", "batch")
    first, batches = rows[0], sorted({row["batch"] for row in rows}, key=int, reverse=True)
    lines = [
        f"Speed of DeiT-Small over the unreduced model at {first['img_size']} px, {first['dtype']}, {first['threads']} "
        f"CPU threads, median of {num_rounds(rows)} {SPREAD}:\n",
        "| method | MAC ratio | " + " | ".join(f"batch {batch}" for batch in batches) + " |",
        "|---|---|" + "---|" * len(batches),
    ]
    for method in dict.fromkeys(row["method"] for row in rows):
        of_batch = {row["batch"]: row for row in rows if row["method"] == method}
        cells = [measured(of_batch[batch], "speedup") for batch in batches]
        lines.append(f"| {method} | {float(of_batch[batches[0]]['mac_ratio']):.2f} | {' | '.join(cells)} |")
    return with_source(lines, path, first["cpu"])


def suite_table() -> str:
    """Against the unreduced model and the full attention matrix, from the rows of benchmarks/suite.py."""
    paths = sorted(RESULTS.glob("suite_*.csv"), key=lambda path: path.stem[-10:])
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
            f"| {short_name(row)} | {row['method']} | {row['img_size']} | {row['batch']} | "
            f"{', '.join(how)} | {rounded(row, 'mac_ratio')} | {measured(row, 'speedup')} | "
            f"{rounded(row, 'speedup_per_mac_ratio')} | {measured(row, 'over_matrix')} | "
            f"{rounded(row, 'memory_of_matrix')} |"
        )
    left = dict.fromkeys(
        f"{short_name(row)}, {row['method']}, {row['img_size']} px, batch {row['batch']}, "
        f"{row['dtype']}: {row['skipped']}"
        for row in rows
        if row["skipped"]
    )
    skipped = [f"\nLeft out: {'; '.join(left)}."] if left else []
    links = ", ".join(f"[{path.name}](results/{path.name})" for path in paths)
    return "\n".join([*lines, *skipped, "", f"Rows: {links}.", ""])


def export_speed_table() -> str:
    """Exported reduced models over exported unreduced ones, from the rows of benchmarks/export_speed.py."""
    path, rows = newest("export_speed_*.csv")
    rows = last_of(rows, "route", "model", "method", "batch")
    first = rows[0]
    lines = [
        "Reduced against unreduced by the same route, and the artefact against eager, at 224 px, fp32, "
        f"{first['threads']} CPU threads, median of {num_rounds(rows)} {SPREAD}:\n",
        "| route | model | method | batch | MAC ratio | speed-up | of the MAC ratio | over eager |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['route']} | {short_name(row)} | {row['method']} | {row['batch']} | "
            f"{rounded(row, 'mac_ratio')} | {measured(row, 'speedup')} | {rounded(row, 'speedup_per_mac_ratio')} | "
            f"{measured(row, 'over_eager')} |"
        )
    return with_source(lines, path, first["cpu"])


def packed_table() -> str:
    """Time of packed batches over what their multiply-adds imply, from the rows of benchmarks/packed.py."""
    path, rows = newest("packed_*.csv")
    rows = last_of(rows, "model", "batch", "patches")
    first = rows[0]
    lines = [
        f"{first['dtype']}, {first['threads']} CPU threads, median of {num_rounds(rows)} {SPREAD}:\n",
        "| model | batch | patches kept | MACs of the unreduced | time of the unreduced | time over implied |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {short_name(row)} | {row['batch']} | {row['patches']} | "
            f"{rounded(row, 'macs_share')} | {rounded(row, 'over_unreduced')} | {measured(row, 'over_implied')} |"
        )
    return with_source(lines, path, first["cpu"])


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
        lines.append(
            f"| {row['method']} | {rounded(row, 'mac_ratio')} | {measured(row, 'speedup')} | "
            f"{rounded(row, 'speedup_per_mac_ratio')} |"
        )
    return with_source(lines, path)
