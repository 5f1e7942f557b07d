"""Waveforms and SDR by second as drawings inside the page; what is drawn where it is heard can be clicked."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

COLUMNS = 400
LOWEST = -10.0  # dB; a worse second is drawn there


def clock(seconds: float | int) -> str:
    """Minutes and seconds, as in 3:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def envelope(wave: Float[np.ndarray, "t c"], scale: float) -> str:
    """The outline of a wave as SVG: lowest and highest sample of each of at most 400 stretches of time.

    Args:
        wave: channels are averaged.
        scale: the magnitude that fills the height.
    """
    mono = wave.mean(axis=1)
    edges = np.linspace(0, len(mono), min(COLUMNS, len(mono)), endpoint=False).astype(int)
    high, low = (100 * reduce.reduceat(mono, edges) / (scale or 1.0) for reduce in (np.maximum, np.minimum))
    places = edges / len(mono) * 1000
    outline = [*zip(places, high, strict=True), *zip(places[::-1], low[::-1], strict=True)]
    return '<polygon points="' + " ".join(f"{x:.1f},{-y:.0f}" for x, y in outline) + '"/>'


def waveform(wave: Float[np.ndarray, "t c"], scale: float, more: str = "") -> str:
    """A wave as an SVG element that fills its box, with more drawings over it."""
    return (
        '<svg viewBox="0 -100 1000 200" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        f"{envelope(wave, scale)}{more}</svg>"
    )


def bounds(scores: Sequence[Float[np.ndarray, " _"]]) -> tuple[float, float]:
    """The range in dB that holds all scores from `LOWEST` up, and zero."""
    values = np.concatenate([row[np.isfinite(row)] for row in scores]) if scores else np.zeros(0)
    return max(LOWEST, np.floor(values.min(initial=0.0))), max(1.0, np.ceil(values.max(initial=0.0)))


def steps(scores: Mapping[str, Float[np.ndarray, " _"]], limits: tuple[float, float], seconds: float) -> str:
    """SDR by second as lines over a `waveform`, one per CSS class, a rule at 0 dB; gaps where there is no score."""
    low, high = limits

    def place(second: int, value: float) -> str:
        bounded = min(max(value, low), high)
        return f"{second / seconds * 1000:.1f},{95 - 190 * (bounded - low) / (high - low):.1f}"

    zero = f'<path class="zero" d="M{place(0, 0.0)}H1000"/>'
    lines = []
    for colour, row in scores.items():
        path, pen = "", "M"
        for second, value in enumerate(row):
            if np.isnan(value):
                pen = "M"
                continue
            path += f"{pen}{place(second, value)}L{place(second + 1, value)}"
            pen = "L"
        lines.append(f'<path class="{colour}" d="{path}"/>')
    return zero + "".join(lines)
