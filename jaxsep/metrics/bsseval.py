"""BSS Eval v4 for source images in JAX: SDR, ISR, SIR and SAR of every frame, equal to museval's, many times faster.

Each estimate is projected on its own reference and on all references, delayed by up to 511 samples (Vincent,
Gribonval and Févotte 2006; Vincent et al. 2012 for images; v4: Stöter, Liutkus and Ito 2018, SiSEC). museval
transforms whole tracks, solves one linear system per source and convolves every frame. The same numbers come from less:

- correlations are needed at 1,023 lags only, so short transforms of blocks do, summed up before the one inverse;
- all estimates share one matrix, which is factored once;
- the filtered frames are needed for their energies only, which by Parseval's theorem their spectra have, too.

Everything is float64, within this file only. A song is read twice and never held as a whole.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Bool, Complex, Float

from jaxsep.metrics.waves import Waves

TAPS = 512  # L, of the distortion filters
BLOCK, BLOCKS = 4096, 16  # samples per transform of the correlations, and transforms at a time: as a cache holds them
EMPTY = 1e-14  # energy of a channel's axis that is rounding, relative to the strongest one's
LOADING = 1e-13  # of a matrix that is not positive definite in float64, relative to its diagonal
DOUBTFUL = 1e13  # condition number from which rounding moves the ratios by some 1e-3 dB
MODES = ("v4", "v3")


class BssEval(NamedTuple):
    """The four metrics of each source and frame in dB, [s n].

    Attributes:
        sdr: source to distortion ratio.
        isr: source image to spatial distortion ratio.
        sir: source to interference ratio.
        sar: sources to artifacts ratio.
        ill_conditioned: ISR, SIR and SAR are, in part, rounding noise, here as in museval: the references do
            not determine the filters, as where a codec has emptied a band of samples that were not rounded to 16 bits.
    """

    sdr: Float[np.ndarray, "s n"]
    isr: Float[np.ndarray, "s n"]
    sir: Float[np.ndarray, "s n"]
    sar: Float[np.ndarray, "s n"]
    ill_conditioned: bool


def bss_eval(references: Waves, estimates: Waves, window: int, hop: int, mode: str = "v4") -> BssEval:
    """The metrics of museval's `bss_eval` for images, without permutations: `window=hop=rate` as `evaluate` has it.

    Frames are cut hard, an incomplete last one is dropped unless it is all there is. A frame in which any reference
    or estimate is silent (its channels sum to zero in every sample) is NaN for all sources, and so is every frame
    of a song in which one is silent throughout, which museval refuses. An exact estimate is +inf.

    Args:
        references: the true sources that are scored together, [s t c]; two or more.
        estimates: what was separated, in the same order.
        window: samples of a frame; memory grows with it.
        hop: samples from one frame to the next.
        mode: "v4", one set of filters for the song, or "v3", one for each frame.

    Raises:
        ValueError: shapes that differ, a mode that does not exist, frames without samples, samples that are not finite.
    """
    if tuple(references.shape) != tuple(estimates.shape):
        raise ValueError(f"references {references.shape} and estimates {estimates.shape} differ in shape [s t c]")
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: expected one of {', '.join(MODES)}")
    if min(window, hop, *references.shape) < 1:
        raise ValueError(f"window={window}, hop={hop}, references {references.shape} [s t c]: expected 1 or more each")
    with jax.enable_x64(True), jax.default_device(_device()):
        return _bss_eval(_Pair(references, estimates), window, hop, mode)


class _Pair(NamedTuple):
    """References and estimates that are read together."""

    references: Waves
    estimates: Waves

    def read(self, start: int, stop: int, length: int) -> tuple[Float[np.ndarray, "s t c"], Float[np.ndarray, "s t c"]]:
        """Samples start..stop of both, at most `length` of them, with zeros behind them up to `length`."""
        stop = min(stop, start + length)
        references, estimates = self.references[:, start:stop], self.estimates[:, start:stop]
        if missing := length - (stop - start):
            references, estimates = (np.pad(x, ((0, 0), (0, missing), (0, 0))) for x in (references, estimates))
        return references, estimates


def _device() -> Any:
    """The default device, or the CPU where that knows no float64."""
    device = jax.local_devices()[0]
    return jax.local_devices(backend="cpu")[0] if device.platform == "tpu" else device


def _bss_eval(pair: _Pair, window: int, hop: int, mode: str) -> BssEval:
    sources, length, channels = pair.references.shape
    window = min(window, length)
    starts = range(0, length - window + 1, hop)
    # What has filters of its own: the song with all its frames, or each frame.
    pieces = [(0, length, starts)] if mode == "v4" else [(start, start + window, [start]) for start in starts]
    scores, doubtful = [], False
    for first, last, chosen in pieces:
        correlations, audible = _correlate(pair, first, last)
        if not jnp.isfinite(correlations).all():
            raise ValueError(f"references or estimates hold NaN or infinite samples between {first} and {last}")
        if not audible.all():
            scores.append(np.full((4, sources, len(chosen)), np.nan))
            continue
        filters, noise = _filters(correlations, channels)
        scores.append(_score(pair, chosen, window, *filters))
        doubtful |= noise
    return BssEval(*np.concatenate(scores, axis=-1), ill_conditioned=doubtful)


def _correlate(pair: _Pair, start: int, stop: int) -> tuple[Float[Array, "r x l"], Bool[np.ndarray, " w"]]:
    """Correlations of one piece of the song, and which of its waves are not silent.

    Returns:
        sum_t r[t] x[t + lag] of every reference channel r with every channel x for the lags 0..L-1; flags, references
        first.
    """
    step = BLOCK - TAPS + 1
    sources, _, channels = pair.references.shape
    spectra: Any = jnp.zeros((sources * channels, 2 * sources * channels, BLOCK // 2 + 1), jnp.complex128)
    audible: Any = jnp.zeros(2 * sources, bool)
    for first in range(start, stop, BLOCKS * step):
        waves = pair.read(first, stop, BLOCKS * step + TAPS - 1)
        spectra, audible = _add_cross_spectra(spectra, audible, *waves)
    return jnp.fft.irfft(spectra, BLOCK)[..., :TAPS], np.asarray(audible)


@partial(jax.jit, donate_argnums=(0, 1))
def _add_cross_spectra(
    spectra: Complex[Array, "r x f"],
    audible: Bool[Array, " w"],
    references: Float[Array, "s t c"],
    estimates: Float[Array, "s t c"],
) -> tuple[Complex[Array, "r x f"], Bool[Array, " w"]]:
    """Adds those of reference channels in blocks with all channels there and L - 1 samples on, and what is heard."""
    step = BLOCK - TAPS + 1
    waves = _together(references, estimates)
    rows = waves.reshape(-1, waves.shape[-1])
    longer = jnp.stack([rows[:, i * step : i * step + BLOCK] for i in range(BLOCKS)])
    shorter = longer[:, : len(rows) // 2, :step]
    left, right = jnp.fft.rfft(shorter, BLOCK), jnp.fft.rfft(longer)
    return spectra + (left.conj()[:, :, None] * right[:, None]).sum(axis=0), audible | ~_silent(waves)


def _together(references: Float[Array, "s t c"], estimates: Float[Array, "s t c"]) -> Float[Array, "w c t"]:
    """All waves in float64, references first."""
    return jnp.concatenate([references, estimates]).astype(jnp.float64).swapaxes(1, 2)


def _silent(waves: Float[Array, "w c t"]) -> Bool[Array, " w"]:
    """What museval calls silent: the channels of a wave sum to zero in every sample."""
    return (waves.sum(axis=1) == 0).all(axis=-1)


def _filters(
    correlations: Float[Array, "r x l"], channels: int
) -> tuple[tuple[Float[Array, "r e l"], Float[Array, "s c o l"]], bool]:
    """Least-squares filters onto each estimate, and whether they are mostly rounding noise.

    Returns:
        ((from all reference channels r onto all estimate channels e, from the channels c of each source's reference
        onto those of its estimate, o), the flag).
    """
    count = len(correlations)
    basis = _principal_axes(correlations[:, :count, 0], channels)
    gram, products = _normal_equations(correlations, basis)
    everything, condition = _solve(gram, products)
    own = []
    for first in range(0, count, channels):
        rows, columns = slice(first * TAPS, (first + channels) * TAPS), slice(first, first + channels)
        own.append(_solve(gram[rows, rows], products[rows, columns])[0])
    together = jnp.einsum("ri,ile->rel", basis, everything.reshape(count, TAPS, count))
    apart = jnp.einsum("ri,ile->rel", basis, jnp.concatenate(own).reshape(count, TAPS, channels))
    return (together, apart.reshape(-1, channels, *apart.shape[1:])), condition > DOUBTFUL


def _principal_axes(covariance: Float[Array, "r r"], channels: int) -> Float[Array, "r r"]:
    """An orthogonal basis of each source's channels, without the axes along which there is nothing.

    A mono source on two channels is one signal, not two: with both, the matrix would be singular. What they span,
    and so every projection, is the same.
    """
    axes = np.zeros(covariance.shape)
    for first in range(0, len(covariance), channels):
        block = slice(first, first + channels)
        energies, vectors = np.linalg.eigh(np.asarray(covariance[block, block]))
        axes[block, block] = vectors * (energies > EMPTY * energies.max())
    return jnp.asarray(axes)


@jax.jit
def _normal_equations(
    correlations: Float[Array, "r x l"], basis: Float[Array, "r i"]
) -> tuple[Float[Array, "n n"], Float[Array, "n e"]]:
    """Inner products of the delayed references, and of these with the estimates, n = i L."""
    count = len(correlations)
    correlations = jnp.einsum("ri,rxl->ixl", basis, correlations)
    among = jnp.einsum("rj,irl->ijl", basis, correlations[:, :count])
    lags = jnp.concatenate([jnp.swapaxes(among, 0, 1)[..., :0:-1], among], axis=-1)  # -(L-1)..L-1
    source, tap = jnp.arange(count), jnp.arange(TAPS)
    behind = tap[:, None] - tap  # by how much a row's reference is delayed more than a column's
    gram = lags[source[:, None, None, None], source[:, None], behind[:, None, :] + TAPS - 1]
    gram = gram.reshape(count * TAPS, count * TAPS)
    # museval's loading, which is absolute: it makes room for channels that are zero, and nothing else.
    gram = gram + jnp.finfo(gram.dtype).eps * jnp.eye(len(gram))
    return gram, jnp.moveaxis(correlations[:, count:], 1, 2).reshape(len(gram), count)


def _solve(gram: Float[Array, "n n"], products: Float[Array, "n e"]) -> tuple[Float[Array, "n e"], float]:
    """The filters, and the condition number of the matrix once its diagonal is 1.

    A matrix that holds a signal twice is singular. Its filters are not unique but what they make of the references
    is, and the least loading that lets the factorisation through finds it.
    """
    loading, condition = 0.0, np.nan
    while np.isnan(condition):
        filters, condition = _cholesky(gram, products, loading)
        loading = 10 * loading or LOADING
    return filters, float(condition)


@jax.jit
def _cholesky(
    gram: Float[Array, "n n"], products: Float[Array, "n e"], loading: float | Float[Array, ""]
) -> tuple[Float[Array, "n e"], Float[Array, ""]]:
    """The solution and the condition number; both NaN where the matrix is not positive definite."""
    scale = jax.lax.rsqrt(jnp.diagonal(gram))[:, None]
    gram = scale * gram * scale.T
    factor = jnp.linalg.cholesky(gram + loading * jnp.eye(len(gram)), symmetrize_input=False), True
    noise = jnp.cos(jnp.arange(len(gram), dtype=gram.dtype) ** 2)[:, None]
    solution = cho_solve(factor, jnp.concatenate([scale * products, noise], axis=1))
    # Two steps of inverse iteration, of which the solution brings one, tell the order of the smallest eigenvalue.
    once = solution[:, -1]
    largest, smallest = (
        jnp.abs(gram).sum(axis=0).max(),
        jnp.linalg.norm(once) / jnp.linalg.norm(cho_solve(factor, once)),
    )
    return scale * solution[:, :-1], largest / smallest


def _score(
    pair: _Pair, starts: Sequence[int], window: int, everything: Float[Array, "r e l"], own: Float[Array, "s c o l"]
) -> Float[np.ndarray, "4 s n"]:
    """SDR, ISR, SIR and SAR of the frames that begin at `starts`."""
    size = _fast_size(window + TAPS - 1)
    spectra = jnp.fft.rfft(everything, size), jnp.fft.rfft(own, size)
    frames = (pair.read(start, start + window, window) for start in starts)
    return np.stack([_metrics(*frame, *spectra, size) for frame in frames], axis=-1)


@partial(jax.jit, static_argnames="size")
def _metrics(
    references: Float[Array, "s t c"],
    estimates: Float[Array, "s t c"],
    everything: Complex[Array, "r e f"],
    own: Complex[Array, "s c o f"],
    size: int,
) -> Float[Array, "4 s"]:
    """The four ratios of each source in one frame, NaN where the frame is silent in any."""
    waves = _together(references, estimates)
    true, estimated = jnp.split(jnp.fft.rfft(waves, size), 2)
    image = (true[:, :, None] * own).sum(axis=1)  # P_j e_j, [s o f]
    projection = (true.reshape(-1, 1, true.shape[-1]) * everything).sum(axis=0).reshape(true.shape)  # P e_j

    def power(spectrum: Array) -> Array:
        """Energy of the waves of half a spectrum of even length, by Parseval's theorem."""
        squares = (spectrum * spectrum.conj()).real
        return (2 * squares.sum(axis=-1) - squares[..., 0] - squares[..., -1]).sum(axis=-1) / size

    reference, estimate = jnp.split(waves, 2)
    energy = jnp.square(reference).sum(axis=(1, 2))
    ratios = (
        (energy, jnp.square(reference - estimate).sum(axis=(1, 2))),
        (energy, power(image - true)),
        (power(image), power(projection - image)),
        (power(projection), power(estimated - projection)),
    )
    decibels = jnp.stack([jnp.where(below == 0, jnp.inf, 10 * jnp.log10(above / below)) for above, below in ratios])
    return jnp.where(_silent(waves).any(), jnp.nan, decibels)


def _fast_size(length: int) -> int:
    """The next even number without prime factors above 7: fast on every FFT library."""
    size = length + length % 2
    while True:
        rest = size
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2
