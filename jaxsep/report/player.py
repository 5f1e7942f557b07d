"""One song of the page: clips that play in step, with a lane per stem to mix and to look at, and its spectrograms."""

import json
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
from jaxtyping import Float

from jaxsep.metrics.sdr import is_silent, whole_track_sdr
from jaxsep.report import timeline
from jaxsep.report.clips import encode
from jaxsep.report.overview import overview
from jaxsep.report.panels import draw_panel, panel_waves
from jaxsep.report.song import MIXTURE, REFERENCE, Song

Scores = Mapping[str, Float[np.ndarray, " _"]]  # deck -> SDR of each second


def song_block(song: Song, number: int, folder: Path, format: str, colours: Mapping[str, str]) -> str:
    """The HTML of a song with its clips inside; its pictures go to `<folder>/song-<number>/`.

    Args:
        song: what is heard and seen.
        number: of the song on the page, from 1.
        folder: of the page.
        format: of the clips.
        colours: run -> the CSS class of its colour.

    Raises:
        JaxsepError: waves of different shapes, with samples that are not finite, or that the format cannot hold.
    """
    song.check()
    home = folder / f"song-{number}"
    home.mkdir()
    peak = max(float(np.abs(wave).max(initial=0)) for wave in song.waves().values())
    gain = min(1.0, 1 / peak) if peak else 1.0

    clips = {key: encode(wave * gain, song.rate, format) for key, wave in song.waves().items()}
    players = {key: _clip(song, *key, clip.url) for key, clip in clips.items()}
    scores = song.sdr()
    limits = timeline.bounds(list(scores.values()))
    colour = {deck: colours.get(name, deck) for deck, name in song.decks.items()}
    lanes = [_mixture_lane(song, players.pop((MIXTURE, "")))]
    pictures = []
    for index, source in enumerate(song.sources, 1):
        of_source = {deck: row for (deck, name), row in scores.items() if name == source}
        mine = [html for (_, name), html in players.items() if name == source]
        lanes.append(_lane(song, source, "".join(mine), of_source, limits, colour))
        picture = draw_panel(song, source, home / f"{index}-{_slug(source)}.svg")
        seen = ", ".join(panel_waves(song, source))
        pictures.append(figure(quote(f"{home.name}/{picture.name}"), f"Spectrograms of {seen}: {source}"))

    rate, size = clips[MIXTURE, ""].rate, sum(clip.bytes for clip in clips.values())
    return f"""<article aria-labelledby="song-{number}">
<h3 id="song-{number}">{escape(song.name)}</h3>
{_notes(song, gain, f"{len(clips)} clips in {format.upper()}, {size / 1e6:.1f} MB.", bool(scores))}
<div class="player" role="group" aria-labelledby="song-{number}" data-seconds="{song.seconds:.6f}" data-rate="{rate}" \
data-start="{song.start:g}" data-suffix="{format}">
{_deck(song, number, colour)}
<ul class="lanes">
{chr(10).join(lanes)}
</ul>
<p class="status" role="status"></p>
</div>
{overview(song, colours)}
<details class="panels"><summary>Spectrograms of {escape(song.name)}</summary>
<div class="pictures">
{chr(10).join(pictures)}
</div></details>
</article>"""


def _notes(song: Song, gain: float, size: str, scored: bool) -> str:
    notes = [song.note] if song.note else []
    if scored:
        notes.append(
            "The dB beside a stem are the SDR of this clip as a whole, the lines its SDR second by second "
            f"(those below {timeline.LOWEST:g} dB at the bottom); they are not the scores of the table."
        )
    if gain < 1:
        notes.append(f"All clips are turned down by {-20 * np.log10(gain):.1f} dB, so that none of them clips.")
    return f'<p class="note">{escape(" ".join([*notes, size]))}</p>'


def _slug(name: str) -> str:
    """A file name on any system: letters and digits of any script, the rest as dashes."""
    return re.sub(r"\W+", "-", name).strip("-")[:40]


def _clip(song: Song, deck: str, source: str, url: str) -> str:
    """The audio element that holds a clip's bytes, and plays them where there is no script."""
    title = song.decks[deck]
    label = escape(f"{source}, {title}" if source else title)
    extra = " data-part" if deck == REFERENCE and source in song.parts else ""
    return (
        f'<span class="clip"><span>{escape(title)}</span><audio controls preload="none" aria-label="{label}" '
        f'data-deck="{deck}" data-source="{escape(source)}"{extra} src="{url}"></audio></span>'
    )


def _mixture_lane(song: Song, clip: str) -> str:
    scale = float(np.abs(song.mixture.mean(axis=1)).max(initial=0))
    return (
        f'<li class="whole"><span class="name">mixture</span>{clip}'
        f'<div class="lane" title="click: go there; drag: loop">{timeline.waveform(song.mixture, scale)}</div></li>'
    )


def _lane(
    song: Song, source: str, clips: str, scores: Scores, limits: tuple[float, float], colour: Mapping[str, str]
) -> str:
    """A stem: its name with the SDR of each run, its switches, and its waveform with SDR by second over it."""
    name = escape(source)
    waves = [song.truth, *song.estimates.values()]
    wave = next(stems[source] for stems in waves if source in stems)
    scale = float(np.abs(song.mixture.mean(axis=1)).max(initial=0))
    coloured = {colour[deck]: row for deck, row in scores.items()}
    lines = timeline.steps(coloured, limits, song.seconds) if scores else ""
    seconds = {deck: [round(v, 2) if np.isfinite(v) else None for v in row.tolist()] for deck, row in scores.items()}
    axis = f'<span class="top">{limits[1]:g} dB</span><span class="bottom">{limits[0]:g}</span>' if scores else ""
    return f"""<li class="stem" data-source="{name}" data-sdr="{escape(json.dumps(seconds))}">
<span class="name">{name}</span>
{clips}
<span class="switches" hidden>{_switch("solo", name)}{_switch("mute", name)}\
<input type="range" class="volume" min="0" max="1" step="0.05" value="1" aria-label="Volume of {name}">\
<button type="button" class="save" aria-label="Save {name} as it is heard">Save</button></span>
<div class="lane" title="click: go there; drag: loop">{timeline.waveform(wave, scale, lines)}{axis}</div>
<span class="scores">{"".join(_score(song, deck, source, row, colour[deck]) for deck, row in scores.items())}</span>
</li>"""


def _switch(kind: str, name: str) -> str:
    word = kind.title()
    return f'<button type="button" class="{kind}" aria-pressed="false" aria-label="{word} {name}">{word}</button>'


def _score(song: Song, deck: str, source: str, seconds: Float[np.ndarray, " n"], colour: str) -> str:
    """A run's SDR of the clip as a whole, room for that of the second that is heard, and a way to the worst second."""
    run, reference = song.decks[deck], song.truth[source]
    if is_silent(reference):
        value = "reference silent"
    else:
        value = f"{whole_track_sdr(reference[None], song.stems(deck)[source][None])[0]:.1f} dB"
    name = escape(run) if len(song.estimates) > 1 else "SDR"
    now = f'<span class="now" data-deck="{deck}" aria-hidden="true"></span>'
    worst = ""
    if np.isfinite(seconds).any():
        second = int(np.nanargmin(seconds))
        words = f"lowest {seconds[second]:.1f} at {timeline.clock(song.start + second)}"
        worst = (
            f'<button type="button" class="worst" data-deck="{deck}" data-at="{second}" hidden '
            f'aria-label="{escape(f"Hear {run}, {source}, {words}")}">{words}</button>'
        )
    return f'<span class="{colour}">{name} <b>{value}</b> {now}{worst}</span>'


def _deck(song: Song, number: int, colour: Mapping[str, str]) -> str:
    """Play button, position, loop, and the choice of what is heard; the script unhides it."""
    choices = "".join(
        f'<label class="{colour[deck]}"><input type="radio" name="hear-{number}" value="{deck}"'
        f"{' checked' if deck == MIXTURE else ''}> {escape(name)}"
        + (f' <kbd aria-hidden="true">{key}</kbd></label>' if key < 10 else "</label>")
        for key, (deck, name) in enumerate(song.decks.items(), 1)
    )
    return f"""<div class="deck" hidden>
<button type="button" class="play">Play</button>
<span class="time">{timeline.clock(song.start)} / {timeline.clock(song.start + song.seconds)}</span>
<input type="range" class="seek" min="0" max="{song.seconds:.2f}" step="0.01" value="0" aria-label="Position">
<span class="looping"><button type="button" class="loop" aria-pressed="false">Loop</button>\
<button type="button" class="from" aria-label="Loop from here">from</button>\
<button type="button" class="to" aria-label="Loop to here">to</button><span class="region"></span></span>
<fieldset><legend>Hear</legend>{choices}</fieldset>
</div>"""


def figure(src: str, alt: str, caption: str = "") -> str:
    """A picture with its description for those who do not see it, and a caption for all."""
    shown = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{src}" alt="{escape(alt)}" loading="lazy">{shown}</figure>'
