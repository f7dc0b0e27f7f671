"""Picture of the speed-ups: a bar each, the range of the rounds, and the FLOP ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from PIL import Image, ImageDraw

from olmo.benchmark.plan import DENSE
from olmo.benchmark.results import Result
from olmo.viewer.draw import FAINT, INK, PAPER, font, wrap

BAR, CEILING, AXIS = (70, 122, 178), (208, 76, 52), (215, 218, 224)
WIDTH, LABELS, NOTES, MARGIN = 1080, 250, 250, 24
"""Pixels: whole picture, space for names at the left and figures at the right, outer margin."""
LINE, THICK, TITLE, TEXT = 26, 14, 20, 14
"""Pixels: height of a row and of a bar; font sizes."""
STEPS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
"""Distances between lines of the axis."""


def speedup_chart(results: Sequence[Result], note: str) -> Image.Image:
    """One bar per setting but our dense run, in groups on the same inputs. A setting without a
    speed-up shows why instead of a bar."""
    pruned = [r for r in results if r.setting != DENSE]
    sections = [(k, list(v)) for k, v in groupby(pruned, lambda r: r.title)]
    lines = wrap(note, WIDTH - 2 * MARGIN, TEXT)
    top = MARGIN + TITLE + 12 + LINE * (len(lines) + 1)
    height = top + LINE * (len(pruned) + 2 * len(sections)) + MARGIN + LINE
    image = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN), "Speed-up over the dense model", INK, font(TITLE))
    y = MARGIN + TITLE + 12
    for line in lines:
        draw.text((MARGIN, y), line, FAINT, font(TEXT))
        y += LINE
    _legend(draw, y)
    highs = [r.speedup.high for r in pruned if r.speedup]
    largest = 1.05 * max([1.0, *highs, *(r.ceiling for r in pruned)])
    _axis(draw, largest, top, height - MARGIN - LINE)
    y = top
    for title, members in sections:
        y += LINE // 2
        title += " shapes" if members[0].shapes == "varying" else ""
        draw.text((MARGIN, y), title, INK, font(TEXT + 2))
        y += LINE
        for result in members:
            _bar(draw, largest, result, y)
            y += LINE
        y += LINE // 2
    return image


def _x(value: float, largest: float) -> float:
    """Horizontal pixel of a speed-up, where the axis ends with ``largest``."""
    left, right = MARGIN + LABELS, WIDTH - MARGIN - NOTES
    return left + (right - left) * value / largest


def _legend(draw: ImageDraw.ImageDraw, y: int) -> None:
    draw.rectangle((MARGIN, y + 4, MARGIN + 24, y + 4 + THICK), BAR)
    draw.text((MARGIN + 32, y), "median; line: range of the rounds", FAINT, font(TEXT))
    x = MARGIN + 290
    draw.line((x, y + 2, x, y + 6 + THICK), CEILING, 3)
    draw.text((x + 8, y), "ceiling by FLOPs (decode: bytes)", FAINT, font(TEXT))


def _axis(draw: ImageDraw.ImageDraw, largest: float, top: int, bottom: int) -> None:
    """At most ten lines, 1 among them."""
    step = next((s for s in STEPS if largest / s <= 10), STEPS[-1])
    for i in range(int(largest / step) + 1):
        tick = i * step
        x = _x(tick, largest)
        draw.line((x, top, x, bottom), FAINT if tick == 1 else AXIS, 1)
        draw.text((x, bottom + 4), f"{tick:g}x", FAINT, font(TEXT), anchor="ma")


def _bar(draw: ImageDraw.ImageDraw, largest: float, result: Result, y: int) -> None:
    draw.text((MARGIN + 12, y), result.setting.label, INK, font(TEXT))
    middle, right = y + LINE // 2 - 2, WIDTH - MARGIN - NOTES + 12
    if result.speedup is None:
        room = _x(0, largest) + 6
        lines = wrap(result.problem or "not measured", WIDTH - MARGIN - int(room), TEXT)
        draw.text((room, y), lines[0], CEILING, font(TEXT))
        return
    found = result.speedup
    half = THICK // 2
    draw.rectangle((_x(0, largest), middle - half, _x(found.median, largest), middle + half), BAR)
    draw.line((_x(found.low, largest), middle, _x(found.high, largest), middle), INK, 2)
    x = _x(result.ceiling, largest)
    draw.line((x, middle - half - 2, x, middle + half + 2), CEILING, 3)
    share = 100 * found.median / result.ceiling
    text = f"{found.median:.2f}x, {share:.0f}% of {result.ceiling:.2f}x"
    draw.text((right, y), text, INK, font(TEXT))
