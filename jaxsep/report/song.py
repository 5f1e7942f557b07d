"""What is heard and seen of a song: its mixture, what runs made of it, and the truth where it is known."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from jaxsep.errors import JaxsepError
from jaxsep.metrics.sdr import framewise_sdr

MIXTURE, REFERENCE = "mixture", "reference"


@dataclass(frozen=True)
class Song:
    """A song, or a part of one, to look at and listen to.

    A deck is what can be heard instead of another: the mixture, a run's estimates or the references.

    Attributes:
        name: as it is to be shown; any text.
        rate: samples per second.
        mixture: [t c].
        estimates: run -> source -> wave [t c].
        references: source -> wave [t c], or None where nobody knows them.
        note: what a reader has to know about it, one or two sentences.
        start: second of the whole song at which it begins.
        whole: the mixture of the whole song [u c], where this is a part of one.
        scored: run -> source -> SDR of each second of the whole song, in dB.
        parts: sources that other sources contain, as drums are in an accompaniment; together they would be too much.
    """

    name: str
    rate: int
    mixture: Float[np.ndarray, "t c"]
    estimates: Mapping[str, Mapping[str, np.ndarray]]
    references: Mapping[str, np.ndarray] | None = None
    note: str = ""
    start: float = 0.0
    whole: Float[np.ndarray, "u c"] | None = None
    scored: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    parts: Collection[str] = ()

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.mixture) / self.rate

    @property
    def sources(self) -> list[str]:
        """Of all runs, each once."""
        return list(dict.fromkeys(source for stems in self.estimates.values() for source in stems))

    @property
    def truth(self) -> Mapping[str, np.ndarray]:
        """The references, {} where nobody knows them."""
        return self.references or {}

    @property
    def decks(self) -> dict[str, str]:
        """What can be heard: name in the page -> name for people; the runs are `run-1`, `run-2`, ..."""
        runs = {f"run-{number}": name for number, name in enumerate(self.estimates, 1)}
        return {MIXTURE: MIXTURE, **runs, **({REFERENCE: "reference"} if self.truth else {})}

    def stems(self, deck: str) -> Mapping[str, np.ndarray]:
        """Source -> wave [t c] of a deck; the mixture has none."""
        if deck in (MIXTURE, REFERENCE):
            return self.truth if deck == REFERENCE else {}
        return self.estimates[self.decks[deck]]

    def waves(self) -> dict[tuple[str, str], np.ndarray]:
        """All waves [t c] by (deck, source): the mixture (source ""), then source by source each run and the truth."""
        of = {deck: self.stems(deck) for deck in self.decks}
        stems = {(deck, name): of[deck][name] for name in self.sources for deck in of if name in of[deck]}
        return {(MIXTURE, ""): self.mixture, **stems}

    def sdr(self) -> dict[tuple[str, str], Float[np.ndarray, " n"]]:
        """SDR of each whole second by (deck, source), in dB; a run's sources are scored together."""
        scores = {}
        for deck in self.decks:
            stems = self.stems(deck)
            known = [source for source in stems if source in self.truth]
            if known and deck != REFERENCE:
                references, estimates = (np.stack([of[source] for source in known]) for of in (self.truth, stems))
                rows = framewise_sdr(references, estimates, self.rate)
                scores |= {(deck, source): row for source, row in zip(known, rows, strict=True)}
        return scores

    def check(self) -> None:
        """Raises:
        JaxsepError: waves of different shapes, or with samples that are not finite.
        """
        decks = self.decks
        for (deck, source), wave in self.waves().items():
            name = f"{self.name}: {decks[deck]} {source}".rstrip()
            if wave.ndim != 2 or wave.shape != self.mixture.shape:
                shapes = f"{list(wave.shape)}, the mixture {list(self.mixture.shape)}"
                raise JaxsepError(f"{name} is {shapes}: give equal [t c]")
            if not np.isfinite(wave).all():
                raise JaxsepError(f"{name} has NaN or infinite samples; separate the song again")
