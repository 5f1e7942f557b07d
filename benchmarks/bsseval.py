"""BSS Eval against museval: time, and the largest difference of each metric, in one run on the same machine.

    python benchmarks/bsseval.py                 # a 3-minute song of four stereo stems, in 16 bits
    python benchmarks/bsseval.py --seconds=30

The song is a built-in one, its estimates an ideal ratio mask's. Ours runs once before it is timed, which compiles it,
and then three times, of which the median counts; museval is plain NumPy and SciPy, takes minutes and runs once.
"""

import argparse
import time
from functools import partial

import jax
import numpy as np

from jaxsep.baselines import irm1
from jaxsep.data.synth import synth_song
from jaxsep.metrics import museval, sdr
from jaxsep.metrics.bsseval import bss_eval

RATE = 44100


def timed(function, *arguments, times=1):
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        result = function(*arguments)
        spent.append(time.perf_counter() - start)
    return result, float(np.median(spent))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=180, help="length of the song; default: 180")
    options = parser.parse_args()
    if why := museval.unavailable():
        parser.exit(2, f"museval cannot be used: {why}\n")
    stems = synth_song(seed=0, number=0, seconds=options.seconds)
    references = np.stack(list(stems.values())).astype(np.float64)
    references = np.round(references * 2**15) / 2**15
    estimates = irm1(references.sum(axis=0), references)
    print(
        f"{options.seconds} s, {len(references)} stems, {references.shape[2]} channels; {jax.devices()[0].device_kind}"
    )

    score = partial(bss_eval, references, estimates, RATE, RATE)
    score()
    ours, spent = timed(score, times=3)
    alone, spent_alone = timed(sdr.framewise_sdr, references, estimates, RATE, times=3)
    theirs, spent_theirs = timed(museval.bss_eval, references, estimates, RATE)
    assert theirs is not None
    print(f"museval                 {spent_theirs:8.2f} s")
    for name, seconds in (("jaxsep, all four", spent), ("jaxsep, SDR alone", spent_alone)):
        print(f"{name:<22}  {seconds:8.2f} s  {spent_theirs / seconds:6.0f} x")
    for name, mine in zip(museval.METRICS, ours, strict=False):
        assert np.array_equal(np.isnan(mine), np.isnan(theirs[name])), name
        print(f"{name}: largest difference {np.nanmax(np.abs(mine - theirs[name])):.1e} dB")
    print(f"SDR alone: largest difference {np.nanmax(np.abs(alone - theirs['SDR'])):.1e} dB")
    print(f"ill-conditioned: {ours.ill_conditioned}")


if __name__ == "__main__":
    main()
