"""Spectrogram panels of one source under each other, on one dB scale: mixture, reference, estimates, their errors."""

from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float

from jaxsep.errors import JaxsepError
from jaxsep.report.song import MIXTURE, REFERENCE, Song
from jaxsep.report.svg import INK, STYLE, new_figure, save

RANGE = 80.0  # dB below the loudest cell of the mixture
STEP = 2.0  # dB from one colour to the next: half the bytes of a smooth scale
LOWEST = 40.0  # Hz
ROWS = 192
COLUMNS = 480
FRAME = 4096  # samples at 44.1 kHz; other rates keep the duration


def spectrogram(wave: Float[np.ndarray, "t c"], rate: int) -> Float[np.ndarray, "f n"]:
    """Power on a logarithmic frequency axis from 40 Hz to half the rate, channels averaged.

    Hann windows of 93 ms that overlap by a half or more; at most 480 columns, so those of a long song are means.
    """
    frame = max(256, round(FRAME * rate / 44100 / 2) * 2)
    hop = max(frame // 8, min(frame // 2, len(wave) // COLUMNS))
    padded = np.pad(wave, ((frame // 2, frame // 2), (0, 0)), mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, frame, axis=0)[::hop]  # [n c frame]
    window = np.hanning(frame + 1)[:-1]
    power = np.mean([np.abs(np.fft.rfft(frames[:, c] * window)) ** 2 for c in range(wave.shape[1])], axis=0)
    if len(power) > COLUMNS:
        edges = np.linspace(0, len(power), COLUMNS, endpoint=False).astype(int)
        power = np.add.reduceat(power, edges) / np.diff(edges, append=len(power))[:, None]
    # Mean power between two edges, however many bins or fractions of one lie between them.
    edges = np.geomspace(LOWEST, rate / 2, ROWS + 1) / rate * frame + 0.5
    total = np.pad(np.cumsum(power, axis=1), ((0, 0), (1, 0)))
    at_edges = np.stack([np.interp(edges, np.arange(total.shape[1]), row) for row in total])
    return (np.diff(at_edges) / np.diff(edges)).T


def panel_waves(song: Song, source: str) -> dict[str, np.ndarray]:
    """Title -> wave of the pictures of a source: the mixture, the reference, and each run's estimate and error.

    The error is the estimate minus the reference.
    """
    waves = {MIXTURE: song.mixture}
    if source in song.truth:
        waves[f"{REFERENCE}: {source}"] = song.truth[source]
    alone = len(song.estimates) == 1
    for run, stems in song.estimates.items():
        if source in stems:
            waves[f"estimate: {source}" if alone else f"{run}: {source}"] = stems[source]
            if source in song.truth:
                waves["error" if alone else f"error of {run}"] = stems[source] - song.truth[source]
    return waves


def draw_panel(song: Song, source: str, dest: str | Path) -> Path:
    """Draws the pictures of one source as SVG.

    All share the axes and the scale: dB relative to the loudest cell of the mixture's spectrogram.

    Raises:
        JaxsepError: the song has no estimate of `source`.
    """
    if source not in song.sources:
        raise JaxsepError(f"{song.name}: no estimate of {source!r}; there are {', '.join(song.sources)}")
    powers = {title: spectrogram(wave, song.rate) for title, wave in panel_waves(song, source).items()}
    loudest = powers[MIXTURE].max() or 1.0
    extent = (song.start, song.start + song.seconds, np.log2(LOWEST), np.log2(song.rate / 2))
    colours = matplotlib.colormaps["magma"].resampled(round(RANGE / STEP) + 1)
    ticks = [hertz for hertz in (50, 200, 1000, 5000, 20000) if hertz < song.rate / 2]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.0, 0.5 + 1.35 * len(powers))
        axes = figure.subplots(len(powers), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axis, (title, power) in zip(axes, powers.items(), strict=True):
            decibels = 10 * np.log10(np.maximum(power / loudest, 1e-30))
            image = axis.imshow(
                decibels, aspect="auto", origin="lower", extent=extent, vmin=-RANGE, vmax=0, cmap=colours,
                interpolation="none",
            )  # fmt: skip
            axis.set_title(title)
            axis.set_yticks(np.log2(ticks), [f"{hertz / 1000:g}k" if hertz >= 1000 else str(hertz) for hertz in ticks])
            axis.set_ylabel("Hz")
        axes[-1].set_xlabel("seconds")
        bar = figure.colorbar(image, ax=axes, label="dB re loudest of mixture", fraction=0.05, pad=0.02)
        bar.outline.set_edgecolor(INK)
        save(figure, Path(dest))
    return Path(dest)
