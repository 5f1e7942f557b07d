"""Pitch and tempo, each on its own: a phase vocoder that resamples in the same pass.

Frames are taken from the wave every `hop` samples, their spectra turned in phase, and brought back as frames of
another length, `out`, a quarter of which apart: the pitch is multiplied by frame / out, the tempo by 4 hop / out
(`jaxsep.data.warps`).

Phases: Laroche and Dolson, "Improved phase vocoder time-scale modification of audio", IEEE TSAP 7(3), 1999, identity
phase locking: each bin turns as the nearest peak of its frame does, and a peak as its frequency wants, which is
measured from one frame to the next. Peaks, frequencies and turns are those of all channels together, so that the
image stays. A bin whose power jumps begins anew with the phase that it has, which keeps attacks sharp. Where pitch
and tempo are multiplied alike no phase is to be turned, and what remains is resampling with a Hann-windowed kernel.
"""

import math
from typing import Any

from jaxtyping import Float, Int

from jaxsep.data.augment import tf

REACH = 15  # bins: how far from its peak a bin turns with it
ATTACK = 4.0  # factor between the powers of a bin in two frames from which on it begins anew


def warp(
    wave: Float[tf.Tensor, "t c"], change: Int[tf.Tensor, "3"], first: int, segment: int
) -> Float[tf.Tensor, "n c"]:
    """A wave in another pitch and tempo.

    Args:
        wave: with `Warp.before` samples or more before number `first`, and `Warp.after` from it on.
        change: a `jaxsep.data.warps.Warp`.
        first: the sample that is the first of the result.
        segment: samples of the result.
    """
    frame, out, hop = tf.unstack(change)
    step = out // 4
    frames = (segment - 2 + 2 * step) // step + 2
    start = first - hop - frame // 2
    samples = tf.transpose(wave[start : start + (frames - 1) * hop + frame])
    # In pieces of which both a frame and a hop are whole numbers: gathering single samples takes longer.
    piece = tf.where((frame % 4 == 0) & (hop % 4 == 0), 4, 2)
    pieces = tf.reshape(samples, [tf.shape(samples)[0], -1, piece])
    index = tf.range(frames)[:, None] * (hop // piece) + tf.range(frame // piece)
    framed = tf.reshape(tf.gather(pieces, index, axis=1), [-1, frames, frame])
    spectrum = tf.signal.rfft(framed * tf.signal.hann_window(frame))
    spectrum = tf.cond(4 * hop == frame, lambda: spectrum, lambda: spectrum * _turns(spectrum, frame, hop))
    back = tf.signal.irfft(spectrum, [out]) * (tf.signal.hann_window(out) * tf.cast(out / frame / 1.5, tf.float32))
    result = tf.signal.overlap_and_add(back, step)[:, 3 * step : 3 * step + segment]
    return tf.ensure_shape(tf.transpose(result), (segment, wave.shape[-1]))


def _turns(spectrum: tf.Tensor, frame: tf.Tensor, hop: tf.Tensor) -> tf.Tensor:
    """By which phase factors the bins of spectra [c n f] turn, [n f]."""
    bins = frame // 2 + 1
    power = tf.reduce_sum(tf.math.square(tf.math.real(spectrum)) + tf.math.square(tf.math.imag(spectrum)), axis=0)
    cross = tf.reduce_sum(spectrum[:, 1:] * tf.math.conj(spectrum[:, :-1]), axis=0)
    turn = tf.math.atan2(tf.math.imag(cross), tf.math.real(cross)) * (0.5 / math.pi)
    # Cycles: what a bin's centre turns in a hop, and the whole number of them that makes up the measured turn.
    centre = tf.cast(tf.range(bins) * hop, tf.float32) / tf.cast(frame, tf.float32)
    turn += tf.round(centre - turn)
    more = turn * (tf.cast(frame, tf.float32) / tf.cast(4 * hop, tf.float32) - 1)
    more -= tf.round(more)
    keep = tf.cast(power[1:] <= ATTACK * power[:-1], tf.float32)
    peak = _nearest_peak(power[1:], bins)

    def body(n, last, all_of_them):
        last = tf.gather((last + more[n]) * keep[n], peak[n])
        return n + 1, last, all_of_them.write(n + 1, last)

    count = tf.shape(more)[0]
    first = tf.zeros([bins])
    array = tf.TensorArray(tf.float32, count + 1, element_shape=[None]).write(0, first)
    unknown: Any = None
    shapes = tf.TensorShape([]), tf.TensorShape([None]), tf.TensorShape(unknown)
    *_, array = tf.while_loop(
        lambda n, *_: n < count, body, (0, first, array), shape_invariants=shapes, parallel_iterations=1
    )
    angle = array.stack() * (2 * math.pi)
    return tf.complex(tf.cos(angle), tf.sin(angle))


def _nearest_peak(power: tf.Tensor, bins: tf.Tensor) -> tf.Tensor:
    """For each bin of [n f] the peak that it belongs to, or itself where there is none near."""
    around = tf.pad(power, [(0, 0), (2, 2)], constant_values=-1.0)
    neighbours = [around[:, shift : shift + bins] for shift in (0, 1, 3, 4)]
    highest = tf.maximum(tf.maximum(neighbours[0], neighbours[1]), tf.maximum(neighbours[2], neighbours[3]))
    number = tf.range(bins)
    peaks = power > highest
    far = 1 << 20
    last = tf.pad(tf.where(peaks, number, -far), [(0, 0), (REACH, 0)], constant_values=-far)
    following = tf.pad(tf.where(peaks, number, far), [(0, 0), (0, REACH)], constant_values=far)
    shift = 1
    while shift <= REACH:  # the maximum of 2, 4, 8, 16 bins in a row
        last = tf.maximum(last[:, shift:], last[:, :-shift])
        following = tf.minimum(following[:, shift:], following[:, :-shift])
        shift *= 2
    nearer = tf.where(number - last < following - number, last, following)
    return tf.where(tf.abs(nearer - number) <= REACH, nearer, number)
