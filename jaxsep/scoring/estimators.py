"""Whose estimates are scored: those of a run's model, of the same told the true phases, or of a baseline."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep import losses, separator
from jaxsep.baselines import catalogue
from jaxsep.checkpoint import load_variables
from jaxsep.inference import Model
from jaxsep.metrics.song import Song, Task
from jaxsep.scoring import splits


def of_baseline(name: str, task: Task, data: Any, split: str) -> tuple[splits.Separate, dict[str, Any]]:
    """What gives a baseline's estimates of a song, and where they come from.

    Raises:
        JaxsepError: an unknown name, or sources of the task that it does not give.
    """
    return catalogue.separator(name, task), {"system": f"baseline {name}", **splits.surroundings(data, split)}


def of_run(
    workdir: Path, checkpoint: str | int, phase: str, config: Any, task: Task, data: Any, split: str
) -> tuple[splits.Separate, dict[str, Any]]:
    """What gives a model's estimates of a song, and where they come from.

    Those of a run under permutation invariant training (`loss.pit`) are put into each song's best order.

    Args:
        workdir: the run.
        checkpoint: "best", "last" or a step.
        phase: "mixture", or "ideal" for the phases of the true sources.
        config: of the run.
        task: what is scored.
        data: see `splits.provenance`.
        split: of the data.

    Raises:
        JaxsepError: no such checkpoint, or ideal phase for a system that does not estimate magnitudes.
    """
    variables, found = load_variables(workdir, checkpoint)
    model = Model.from_parts(separator.build(config), variables, config)
    provenance = splits.provenance(config, found, data, split)
    loss = losses.from_config(config)
    if phase == "mixture" and isinstance(loss, losses.Permuted):
        return lambda song: _arranged(loss, model.separate(song.mixture, song.rate), song, task), provenance
    if phase == "mixture":
        return lambda song: model.separate(song.mixture, song.rate), provenance
    told = model.with_ideal_phase()

    def separate(song: Song) -> Mapping[str, np.ndarray]:
        true = task.combine(song.stems)[: len(task.sources)]
        return told.separate(np.concatenate([song.mixture, *true], axis=1), song.rate)

    return separate, provenance | {"system": f"{provenance['system']} with ideal phase"}


def _arranged(loss: losses.Permuted, stems: Mapping[str, np.ndarray], song: Song, task: Task) -> dict[str, np.ndarray]:
    """The stems under the names of the sources that they fit best."""
    waves = loss.arrange(np.stack([stems[source] for source in task.sources]), task.combine(song.stems))
    return dict(zip(task.sources, waves, strict=True))
