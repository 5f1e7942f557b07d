"""SDR of a whole song second by second: where its bad seconds are, and which part of it is heard on the page."""

from collections.abc import Mapping
from html import escape

import numpy as np

from jaxsep.report import timeline
from jaxsep.report.song import Song

WORST = 3  # seconds named for each run and stem


def overview(song: Song, colours: Mapping[str, str]) -> str:
    """A lane per stem as HTML, to unfold; "" for a song without scores.

    Args:
        song: with `whole` and `scored`.
        colours: run -> the CSS class of its colour.
    """
    if song.whole is None or not song.scored:
        return ""
    rows = {
        (run, source): np.asarray(scores, np.float64)
        for run, stems in song.scored.items()
        for source, scores in stems.items()
    }
    limits = timeline.bounds(list(rows.values()))
    seconds = len(song.whole) / song.rate
    place = f'x="{song.start / seconds * 1000:.1f}" width="{song.seconds / seconds * 1000:.1f}"'
    heard = f'<rect class="heard" y="-100" height="200" {place}/>'
    scale = float(np.abs(song.whole.mean(axis=1)).max(initial=0))
    lanes = []
    for source in song.sources:
        mine = {run: row for (run, name), row in rows.items() if name == source}
        if mine:
            lines = timeline.steps({colours.get(run, ""): row for run, row in mine.items()}, limits, seconds)
            picture = timeline.waveform(song.whole, scale, heard + lines)
            worst = "".join(_worst(run, row, colours.get(run, "")) for run, row in mine.items())
            lanes.append(
                f'<li class="stem"><span class="name">{escape(source)}</span>'
                f'<div class="lane still">{picture}<span class="top">{limits[1]:g} dB</span>'
                f'<span class="bottom">{limits[0]:g}</span></div><span class="scores">{worst}</span></li>'
            )
    return f"""<details class="overview"><summary>SDR of the whole song, second by second</summary>
<p class="note">From the score files, over the waveform of the mixture. What is heard above is shaded; \
<code>jaxsep report --start</code> moves it.</p>
<ul class="lanes">
{chr(10).join(lanes)}
</ul></details>"""


def _worst(run: str, row: np.ndarray, colour: str) -> str:
    finite = [int(second) for second in np.argsort(row, kind="stable") if np.isfinite(row[second])]
    words = ", ".join(f"{row[second]:.1f} at {timeline.clock(second)}" for second in finite[:WORST])
    return f'<span class="{colour}">{escape(run)}: lowest {words} dB</span>' if words else ""
