"""Tables of accuracy: without training, after training, with exits, in int8."""

from __future__ import annotations

from cells import SPREAD, mean_of_seeds, measured, with_source

from rows import Row, newest

RATES = ("0.9", "0.7", "0.5")
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
    return with_source(lines, path)


def training_table() -> str:
    """Top-1 after fine-tuning, mean and standard deviation over seeds, from the rows of benchmarks/imagenette.py."""
    path, rows = newest("imagenette_*.csv")
    first, rates = rows[0], ("0.7", "0.5", "0.3")
    runs: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        runs.setdefault((row["method"], row["keep_rate"], row["updates"]), []).append(row)
    long = max((row["updates"] for row in rows), key=int)
    columns = [*((rate, first["updates"]) for rate in rates), ("0.3", long)]
    base = runs["unreduced", "1.0", first["updates"]]
    lines = [
        f"DeiT-Tiny at {first['img_size']} px, fine-tuned on imagenette by updates of {first['batch_size']} images; "
        f"top-1 on its {first['val_images']} validation images, mean ± standard deviation of {len(base)} seeds. "
        f"Unreduced: {mean_of_seeds(base)} %, {float(first['gmacs']):.3f} G.\n",
        "| trained with | " + " | ".join(f"keep {rate}, {updates} updates" for rate, updates in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for method, title in TRAINED.items():
        cells = [mean_of_seeds(runs.get((method, *column), [])) for column in columns]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    macs = [f"{float(runs[('evit', *column)][0]['gmacs']):.3f} G" for column in columns]
    lines.append("| MACs (EViT) | " + " | ".join(macs) + " |")
    return with_source(lines, path)


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
        speed = measured(row, "speedup")
        lines.append(
            f"| {row['setting']} | {float(row['top1']):.1f} % | {left} | {float(row['gmacs']):.3f} | {speed} |"
        )
    return with_source(lines, path)


def int8_table() -> str:
    """fp32 beside int8, from the rows of `vitrim compare --int8 --compile`."""
    path, rows = newest("int8_*.csv")
    first = rows[0]
    pairs: dict[tuple[str, str], dict[str, Row]] = {}
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
        speed = f"{measured(whole, 'speedup')} | {measured(small, 'speedup')}"
        lines.append(f"| {f'{method} {setting}'.strip()} | {accuracy} | {float(whole['mac_ratio']):.2f} | {speed} |")
    return with_source(lines, path)
