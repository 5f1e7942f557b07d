"""One song of the page: clips that play in step, with solo and mute per stem, and a spectrogram panel per stem."""

import re
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
import soundfile

from jaxsep.errors import JaxsepError
from jaxsep.metrics.sdr import is_silent, whole_track_sdr
from jaxsep.report.panels import Song, draw_panel


def song_block(song: Song, number: int, folder: Path) -> str:
    """The HTML of a song; its clips (16-bit FLAC) and pictures go to `<folder>/song-<number>/`.

    Raises:
        JaxsepError: waves of different shapes, or with samples that are not finite.
    """
    _check(song)
    home = folder / f"song-{number}"
    home.mkdir()
    peak = max(float(np.abs(wave).max(initial=0)) for wave in song.waves().values())
    gain = min(1.0, 1 / peak) if peak else 1.0
    seconds = len(song.mixture) / song.rate

    tracks = [_track("mixture", [_clip(song.mixture * gain, song.rate, "mixture", "", home / "mixture.flac")])]
    figures = []
    for index, (source, estimate) in enumerate(song.estimates.items(), 1):
        stem = f"{index}-{_slug(source)}"
        clips = [_clip(estimate * gain, song.rate, "estimate", source, home / f"{stem}.flac")]
        score = ""
        if song.references is not None and source in song.references:
            reference = song.references[source]
            clips.append(_clip(reference * gain, song.rate, "reference", source, home / f"{stem}-reference.flac"))
            score = _score(reference, estimate)
        tracks.append(_track(source, clips, score, switches=True))
        picture = draw_panel(song, source, home / f"{stem}.svg")
        figures.append(figure(_href(picture), f"Spectrograms of {', '.join(_roles(song, source))}: {source}"))

    notes = [song.note] if song.note else []
    if song.references is not None:
        notes.append("The dB beside a stem are the SDR of this clip as a whole, not a score of the table.")
    if gain < 1:
        notes.append(f"All clips are turned down by {-20 * np.log10(gain):.1f} dB, so that none of them clips.")
    return f"""<article aria-labelledby="song-{number}">
<h3 id="song-{number}">{escape(song.name)}</h3>
{f'<p class="note">{escape(" ".join(notes))}</p>' if notes else ""}
<div class="player" role="group" aria-labelledby="song-{number}">
{_deck(song, number, seconds)}
<ul class="tracks">
{chr(10).join(tracks)}
</ul>
</div>
<div class="pictures">
{chr(10).join(figures)}
</div>
</article>"""


def _check(song: Song) -> None:
    for (role, source), wave in song.waves().items():
        name = f"{song.name}: {role} {source}".rstrip()
        if wave.ndim != 2 or wave.shape != song.mixture.shape:
            raise JaxsepError(f"{name} is {list(wave.shape)}, the mixture {list(song.mixture.shape)}: give equal [t c]")
        if not np.isfinite(wave).all():
            raise JaxsepError(f"{name} has NaN or infinite samples; separate the song again")


def _slug(name: str) -> str:
    """A file name on any system: letters and digits of any script, the rest as dashes."""
    return re.sub(r"\W+", "-", name).strip("-")[:40]


def _roles(song: Song, source: str) -> list[str]:
    return [role for role, name in song.waves() if name in ("", source)]


def _href(path: Path) -> str:
    """The address of a song's file relative to the page."""
    return quote(f"{path.parent.name}/{path.name}")


def _score(reference: np.ndarray, estimate: np.ndarray) -> str:
    if is_silent(reference):
        return "reference silent"
    return f"{whole_track_sdr(reference[None], estimate[None])[0]:.1f} dB"


def _clip(wave: np.ndarray, rate: int, role: str, source: str, path: Path) -> tuple[str, str]:
    """Writes a clip; its audio element and its link."""
    soundfile.write(path, wave, rate, format="FLAC", subtype="PCM_16")
    label = escape(f"{source}, {role}" if source else role)
    audio = (
        f'<audio controls preload="auto" src="{_href(path)}" aria-label="{label}" '
        f'data-role="{role}" data-source="{escape(source)}"></audio>'
    )
    return audio, f'<a href="{_href(path)}" aria-label="{label}, file">{role}</a>'


def _track(name: str, clips: list[tuple[str, str]], score: str = "", switches: bool = False) -> str:
    buttons = "".join(
        f'<button type="button" class="{kind}" aria-pressed="false" data-source="{escape(name)}" '
        f'aria-label="{kind.title()} {escape(name)}">{kind.title()}</button>'
        for kind in ("solo", "mute")
    )
    return (
        f'<li><span class="name">{escape(name)}{f" <small>{score}</small>" if score else ""}</span>'
        + "".join(audio for audio, _ in clips)
        + f'<span class="files">{" ".join(link for _, link in clips)}</span>'
        + (f'<span class="switches" hidden>{buttons}</span>' if switches else "")
        + "</li>"
    )


def _deck(song: Song, number: int, seconds: float) -> str:
    """Play button, position and the choice of what is heard; the script unhides it."""
    roles = ("mixture", "estimate", "reference") if song.references else ("mixture", "estimate")
    names = {"mixture": "mixture", "estimate": "estimates", "reference": "references"}
    choices = "".join(
        f'<label><input type="radio" name="hear-{number}" value="{role}"{" checked" if role == "mixture" else ""}> '
        f"{names[role]}</label>"
        for role in roles
    )
    return f"""<div class="deck" hidden>
<button type="button" class="play">Play</button>
<input type="range" class="seek" min="0" max="{seconds:.2f}" step="0.01" value="0" aria-label="Position">
<output aria-live="off">0:00</output>
<fieldset><legend>Hear</legend>{choices}</fieldset>
</div>"""


def figure(src: str, alt: str, caption: str = "") -> str:
    """A picture with its description for those who do not see it, and a caption for all."""
    shown = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{src}" alt="{escape(alt)}">{shown}</figure>'
