"""Every baseline by name, for `eval.py --baseline NAME`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxsep.baselines import classical, oracles, trivial
from jaxsep.config import choose
from jaxsep.errors import JaxsepError
from jaxsep.metrics.song import Song, Task


class Baseline(NamedTuple):
    """A way to estimate stems without a model.

    Attributes:
        estimate: (mixture [t c], stems [s t c]) -> [s t c]; with `gives` (mixture, rate) -> source -> [t c].
        about: what it is, in a line.
        gives: the sources of one that knows what it separates; () = whatever stems there are.
    """

    estimate: Callable[..., Any]
    about: str
    gives: tuple[str, ...] = ()


SONG = ("vocals", "accompaniment")
BASELINES = {
    "mixture": Baseline(trivial.untouched_mixture, "the mixture as every source"),
    "sisec-mix": Baseline(trivial.shared_mixture, "MIX of SiSEC 2018: the mixture divided by the number of stems"),
    "scaled-mixture": Baseline(trivial.scaled_mixture, "oracle: the mixture times the best gain for each stem"),
    "mid-side": Baseline(trivial.mid_side, "channel subtraction: L + R is vocals, L - R is accompaniment", SONG),
    "hpss": Baseline(classical.hpss, "librosa: percussive is drums", ("drums",)),
    "repet": Baseline(classical.repet_sim, "librosa: what recurs is accompaniment (REPET-SIM)", SONG),
    "nmf": Baseline(classical.nmf, "oracle on librosa: components of the mixture, each given to its nearest stem"),
    "ibm1": Baseline(oracles.ibm1, "oracle of SiSEC 2018: binary mask of magnitudes"),
    "ibm2": Baseline(oracles.ibm2, "oracle of SiSEC 2018: binary mask of powers"),
    "irm1": Baseline(oracles.irm1, "oracle of SiSEC 2018: ratio mask of magnitudes"),
    "irm2": Baseline(oracles.irm2, "oracle of SiSEC 2018: ratio mask of powers"),
    "mwf": Baseline(oracles.mwf, "oracle of SiSEC 2018: multichannel Wiener filter"),
    "mixture-phase": Baseline(oracles.mixture_phase, "oracle: true magnitudes, the mixture's phase"),
    "ideal-phase": Baseline(oracles.ideal_phase, "oracle: IRM1's magnitudes, true phases"),
}


def find(name: str) -> Baseline:
    """A baseline by its name.

    Raises:
        JaxsepError: there is none of that name; names all.
    """
    return choose(BASELINES, name, "baseline")


def sources_of(name: str, stems: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The sources that a baseline can give of a song's stems, as `jaxsep.config.parse_sources` writes them.

    Raises:
        JaxsepError: an unknown name, or the stems lack one that it gives.
    """
    rest = tuple(stem for stem in stems if stem != "vocals")
    sources = {source: rest if source == "accompaniment" else (source,) for source in find(name).gives or stems}
    if missing := {member for members in sources.values() for member in members} - set(stems):
        raise JaxsepError(f"baseline {name} gives {', '.join(missing)}, which the stems {', '.join(stems)} do not have")
    return sources


def separator(name: str, task: Task) -> Callable[[Song], Mapping[str, Any]]:
    """What gives a baseline's estimates of the sources of a task.

    Raises:
        JaxsepError: an unknown name, or sources that the baseline does not give.
    """
    estimate, _, gives = find(name)
    if not gives:
        return lambda song: dict(zip(task.scored, task.combine(estimate(song.mixture, song.stems)), strict=True))
    possible = sources_of(name, task.stems)
    if other := [source for source, members in task.sources.items() if set(possible.get(source, ())) != set(members)]:
        raise JaxsepError(
            f"baseline {name} gives {', '.join(possible)}, not {', '.join(other)}; without --workdir it is scored on "
            "what it gives"
        )
    return lambda song: estimate(song.mixture, song.rate)
