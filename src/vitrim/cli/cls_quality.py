"""`vitrim cls-quality`: how well class attention in early blocks predicts that of the last block."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import files, options, terminal
from .options import DEFAULT_MODEL, LIST
from .values import SHARES, Several

if TYPE_CHECKING:
    from ..class_attention import ClsQuality

KEEP_RATES = Several((0.7, 0.5, 0.3))


def cls_quality(
    model: Annotated[
        str, typer.Argument(help="Name of a timm model, or a folder written by save_pretrained.")
    ] = DEFAULT_MODEL,
    checkpoint: options.Checkpoint = None,
    images: options.Images = None,
    keep_rates: Annotated[
        Several, typer.Option(parser=SHARES, metavar=LIST, help="Shares of patches to compare: 0.7,0.5,0.3")
    ] = KEEP_RATES,
    limit: options.Limit = None,
    batch_size: options.BatchSize = 32,
    device: options.Device = "cpu",
    amp: options.Amp = False,
    skip_bad: options.SkipBad = False,
    img_size: options.ImgSize = None,
    output: Annotated[Path | None, typer.Option(help="Also write the rows to this .csv file.")] = None,
) -> None:
    """Measure how well the class attention of each block predicts that of the last block.

    Reports Spearman's rank correlation over patches, and the overlap of the most attended patches, as means over images
    with standard errors. The model keeps all its tokens. Exit heads and other weights of a method are ignored.
    """
    from .. import class_attention
    from ..loading.build import load_model, load_trained

    files.check_output(output, ".csv")
    with options.image_folder(model, images) as folder:
        if checkpoint is None:
            net = load_model(model, img_size=img_size)
        else:
            net = load_trained(model, checkpoint, img_size, keep="model")
        batches = options.batches_for(net, folder, limit, batch_size, skip_bad, max_bytes=0)
        with terminal.progress_bar("images") as progress:
            rows = class_attention.cls_quality(
                net, batches, keep_rates=keep_rates, device=device, amp=amp, progress=progress
            )
    _show(rows)
    files.write_csv(output, [_record(row) for row in rows])


def _show(rows: tuple[ClsQuality, ...]) -> None:
    rates = rows[0].keep_rates
    overlaps = [f"overlap at {rate:g}" for rate in rates]
    table = terminal.table(numbers=("block", "rank correlation", *overlaps))
    for row in rows:
        pairs = zip(row.overlaps, row.overlap_errors, strict=True)
        cells = [f"{mean:.3f} ± {error:.3f}" for mean, error in pairs]
        table.add_row(str(row.layer), f"{row.rank_correlation:.3f} ± {row.rank_correlation_error:.3f}", *cells)
    chance = ", ".join(f"{rate:g}" for rate in rates)
    terminal.show(table)
    typer.echo(
        f"class attention against block {rows[-1].layer}; mean ± standard error over {rows[0].num_images} images; "
        f"at random: correlation 0, overlap {chance}."
    )


def _record(row: ClsQuality) -> dict[str, object]:
    record: dict[str, object] = {
        "block": row.layer,
        "rank_correlation": row.rank_correlation,
        "rank_correlation_error": row.rank_correlation_error,
    }
    for rate, mean, error in zip(row.keep_rates, row.overlaps, row.overlap_errors, strict=True):
        record |= {f"overlap_{rate:g}": mean, f"overlap_{rate:g}_error": error}
    return record | {"images": row.num_images}
