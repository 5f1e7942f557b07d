"""What metrics read: sources side by side, a piece at a time."""

from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Waves(Protocol):
    """Sources [s t c] of which pieces can be read: `waves[:, start:stop]` is a float array [s stop-start c].

    A NumPy array is one. So are files that are read on demand, and a long song never lies in memory as a whole.
    `waves[[2, 0]]` are some of the sources, in that order, again as `Waves`.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(s, t, c)."""
        ...

    def __getitem__(self, piece: Any, /) -> np.ndarray:
        """The samples of `waves[:, start:stop]`, past the end as few as there are."""
        ...
