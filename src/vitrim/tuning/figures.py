"""The figures of a report, as SVG text. Colours are the page's own."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from .outcome import Row, Tuned

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 900, 360, 56, 40, 32
MOST = 5.0  # what is lost up to here is drawn at any rate, in points or per cent


def front(found: Tuned) -> str:
    """What each way loses against its speed-up. Hovering tells what a point is; it leads to its row."""
    limit = max(3 * found.best.interval[1], MOST)
    rows = {i: row for i, row in enumerate(found.rows) if row.lost <= limit}
    fastest = max(row.speedup.high for row in rows.values()) * 1.05
    low = min(0.0, *(row.lost for row in rows.values()))
    high = max(found.best.interval[1], *(row.lost for row in rows.values())) * 1.08 or 1.0

    def place(speed: float, lost: float) -> tuple[float, float]:
        x = LEFT + (speed - 0.9) / (fastest - 0.9) * (WIDTH - LEFT - 20)
        return x, TOP + (lost - low) / (high - low) * (HEIGHT - BOTTOM - TOP - 8)

    parts = [_grid(place, fastest, low, high)]
    for i, row in rows.items():
        ends = (row.speedup.median, row.speedup.low, row.speedup.high)
        (x, y), (left, _), (right, _) = (place(each, row.lost) for each in ends)
        colour = f"var(--{row.kind})"
        parts.append(f'<path d="M{left:.1f} {y:.1f}H{right:.1f}" stroke="{colour}" opacity=".5"/>')
        radius = 8 if row.kind == "tuned" else 5
        point = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>'
        parts.append(f'<a href="#row-{i}"><g><title>{html.escape(_told(row))}</title>{point}</g></a>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">speed-up, measured</text>')
    off = "".join(f"; off the chart: {row.name}" for i, row in enumerate(found.rows) if i not in rows)
    parts.append(
        f'<text x="4" y="14">{html.escape(found.what_is_lost)} (further up is better){html.escape(off)}</text>'
    )
    return _svg(parts, "What is lost against the speed-up")


def schedule(found: Tuned) -> str:
    """Patches that leave each block, as bars."""
    counts, most = found.schedule[1:], found.schedule[0]
    step = (WIDTH - LEFT) / len(counts)
    parts = []
    for i, count in enumerate(counts):
        tall = count / most * (HEIGHT - 80)
        x, y = LEFT + i * step, HEIGHT - 40 - tall
        bar = (
            f'<rect x="{x + 3:.1f}" y="{y:.1f}" width="{step - 6:.1f}" height="{tall:.1f}" rx="3" fill="var(--tuned)"/>'
        )
        told = f"<title>block {i}: {count} of {most} patches</title>"
        middle = x + step / 2
        parts.append(f"<g>{told}{bar}</g>")
        parts.append(f'<text class="ink" x="{middle:.1f}" y="{y - 6:.1f}" text-anchor="middle">{count}</text>')
        parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 20}" text-anchor="middle">{i}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 2}" text-anchor="middle">block</text>')
    return _svg(parts, f"Patches that leave each of {len(counts)} blocks")


def times(block_ms: Mapping[str, Mapping[int, float]]) -> str:
    """Time of a block's parts by the number of patches; empty if it was not measured."""
    if not block_ms:
        return ""
    most = max(max(part) for part in block_ms.values())
    high: float = max(max(part.values()) for part in block_ms.values()) or 1.0
    parts = []
    for (name, part), colour in zip(block_ms.items(), ("method", "tuned", "rival"), strict=True):
        points = sorted(part.items())
        line = " ".join(f"{LEFT + p / most * (WIDTH - LEFT - 90):.1f},{_height(ms / high):.1f}" for p, ms in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="var(--{colour})" stroke-width="2"/>')
        x, y = WIDTH - 84, _height(points[-1][1] / high) + 4
        parts.append(f'<text x="{x}" y="{y:.1f}" style="fill: var(--{colour})">{name}</text>')
    for share in (0.0, 0.5, 1.0):
        parts.append(f'<text x="{LEFT - 6}" y="{_height(share) + 4:.1f}" text-anchor="end">{share * high:.3g}</text>')
        tick = LEFT + share * (WIDTH - LEFT - 90)
        parts.append(f'<text x="{tick:.1f}" y="{HEIGHT - 20}" text-anchor="middle">{share * most:.0f}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 2}" text-anchor="middle">patches</text>')
    return _svg(parts, "Milliseconds of a block's parts by the number of patches")


def _told(row: Row) -> str:
    low, high = row.interval
    return (
        f"{row.name}: {row.speedup.median:.2f}x, {row.gmacs:.3g} GMACs, loses {row.lost:.2f} ({low:.2f} to {high:.2f})"
    )


def _height(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - 20)


def _grid(place: object, fastest: float, low: float, high: float) -> str:
    """Lines and numbers of the axes."""
    assert callable(place)
    parts = []
    for step in range(10, int(10 * fastest) + 1, max(int(fastest), 1) * 2):
        x, y = place(step / 10, high)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 22}" text-anchor="middle">{step / 10:g}x</text>')
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{y:.1f}" stroke="var(--line)"/>')
    for i in range(5):
        lost = low + (high - low) * i / 4
        _, y = place(1.0, lost)
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{lost:.2f}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
    return "".join(parts)


def _svg(parts: Sequence[str], label: str) -> str:
    inside = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">{inside}</svg>'
