"""Which method goes through which route: every method on a tiny random ViT, written, run at batch 1 and 7, compared.

python benchmarks/export_table.py                              # tries all, appends rows to results/, rewrites the table
python benchmarks/export_table.py --routes onnx --methods evit # tries these alone; rows of before stand for the others
python benchmarks/export_table.py --table                      # rewrites the table in docs/export.md from the rows
python benchmarks/export_table.py --check                      # exits with 1 if the table is not what the rows say
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "export.md"
VARIANTS: dict[str, dict[str, Any]] = {  # beside every registered method: settings that run other operations
    "beyond_attentive, kmeans": {"inattentive": "kmeans"},
    "beyond_attentive, conv": {"inattentive": "conv"},
    "beyond_attentive, mlp": {"inattentive": "mlp"},
    "beyond_attentive, max": {"inattentive": "max"},
    "token_mergence, l1": {"similarity": "l1"},
    "token_mergence, attention": {"similarity": "attention"},
    "token_mergence, random": {"similarity": "random"},
    "evit, scorer received": {"scorer": "received"},
}
AMOUNTS = {"tome": {"r": 5}, "attention_mass": {"mass": 0.8}}  # where there is no keep rate
KEEP = {"keep_rate": 0.5}
BATCH_SIZES = (1, 7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--routes", help="joined by ,")
    parser.add_argument("--methods", help="joined by ;")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if not (options.table or options.check):
        try_all(options.methods, options.routes)
    before = DOCUMENT.read_text()
    after = with_table(before)
    if options.check:
        wrong = "docs/export.md is not what results/ says: run python benchmarks/export_table.py --table."
        sys.exit(wrong if before != after else 0)
    DOCUMENT.write_text(after)


def try_all(methods: str | None, routes: str | None) -> None:
    """Rows for these, or for all that there are, one route after the other."""
    from vitrim import list_methods
    from vitrim.export.route import ROUTES

    everything = ["unreduced", *list_methods(), *VARIANTS]
    for route in routes.split(",") if routes else ROUTES:
        record([attempt(method, route) for method in (methods.split(";") if methods else everything)])


def attempt(method: str, route: str) -> dict[str, object]:
    """One row: the worst difference of logits, or why there is none."""
    import torch

    from vitrim import export_model
    from vitrim.export.card import versions
    from vitrim.export.route import find_route

    found = find_route(route)
    images = torch.randn(14, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    start, worst, refused = time.perf_counter(), "", ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = export_model(
                tiny(method), Path(folder) / f"model{found.suffix}", to=route, images=images, batch_sizes=BATCH_SIZES
            )
            worst = f"{max(each.largest for each in report.differences):.1e}"
        except ValueError as error:
            refused = str(error)
    print(f"{method:28} {route:14} {worst or refused}", flush=True)
    software = {} if found.missing() else versions(found)
    return {
        "method": method,
        "route": route,
        "batches": " ".join(map(str, BATCH_SIZES)),
        "worst_difference": worst,
        "refused": refused,
        "seconds": f"{time.perf_counter() - start:.1f}",
        "versions": " ".join(f"{name} {version}" for name, version in software.items()),
    }


def tiny(method: str) -> Any:
    """A ViT of 4 blocks and 64 patches with random weights, reduced."""
    import torch
    from timm.models.vision_transformer import VisionTransformer

    import vitrim

    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=4, embed_dim=48, depth=4, num_heads=3, num_classes=10).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.1)  # so that blocks matter
    if method == "unreduced":
        return model
    name = method.partition(",")[0]
    return vitrim.reduce_tokens(model, name, **{**AMOUNTS.get(name, KEEP), **VARIANTS.get(method, {})}).eval()


def record(rows: list[dict[str, object]]) -> None:
    from rows import append

    append("export", rows)


def with_table(text: str) -> str:
    """The text with the table made afresh."""
    pattern = r"(<!-- results:export -->\n).*?(<!-- results:end -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{table()}{match[2]}", text, flags=re.S)


def table() -> str:
    """One line a method, one column a route; the newest row of each pair counts."""
    newest = max((ROOT / "results").glob("export_torch*.csv"), key=lambda path: path.stem[-10:])
    with newest.open(newline="") as file:
        rows = {(row["method"], row["route"]): row for row in csv.DictReader(file)}
    methods, routes = (list(dict.fromkeys(pair[i] for pair in rows)) for i in (0, 1))
    lines = [f"| method | {' | '.join(routes)} |", "|---|" + "---|" * len(routes)]
    reasons: list[str] = []
    for method in methods:
        cells = [_cell(rows.get((method, route)), reasons) for route in routes]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    notes = [f"{i + 1}. {reason}" for i, reason in enumerate(reasons)]
    about = "Largest difference between a logit of the artefact and of eager, over batches of 1 and 7."
    refused = [f"\nNot written ({len(notes)} reasons):\n", *notes] if notes else []
    return "\n".join([about, "", *lines, *refused, "", f"Rows: [{newest.name}](../results/{newest.name}).", ""])


def _cell(row: dict[str, str] | None, reasons: list[str]) -> str:
    if row is None:
        return "not tried"
    if row["worst_difference"]:
        return row["worst_difference"]
    if row["refused"] not in reasons:
        reasons.append(row["refused"])
    return f"no ({reasons.index(row['refused']) + 1})"


if __name__ == "__main__":
    main()
