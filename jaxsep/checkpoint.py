"""Checkpoints: the only file that knows Orbax.

A checkpoint is a folder `<step>` of items (pytrees of arrays; empty ones left out), of `meta` (JSON) and of
`metrics` (the validation SDR, where the step was validated). Orbax writes it in the background under another
name and renames it when complete. Orbax reads some kinds of damage as zeros, so just before the rename a list
of sums joins it (`integrity.py`), and nothing is restored that does not agree with its list.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from jaxsep import frontends, integrity, storage
from jaxsep.config import Config, choose, parse_sources, run_config
from jaxsep.errors import JaxsepError
from jaxsep.hosts import Host, tells_of_loss
from jaxsep.integrity import DELETED, FOLDER, TEMPORARY
from jaxsep.termination import Terminated

ADDED = ("loss_scale",)  # items that a run has only since its precision was changed
ON_FULL_DISK = {"stop": False, "go_on": True}
ROOM = 2**20  # bytes that a checkpoint takes besides its arrays, at most

# Orbax logs its internals, tracebacks of background threads included; what a user can act on is raised here.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


class Checkpoints:
    """The checkpoints of a run: the last two and the best are kept, saves run in the background.

    Of several processes all have to save and restore the same, each its part; process 0 makes and removes folders.

    Args:
        workdir: the run folder.
        host: this process among others.
        on_full_disk: "stop": a save that fails is an error; "go_on": it is a line on stderr, unless it is the last.

    Raises:
        JaxsepError: no such `on_full_disk`; the folder cannot be written, or has checkpoints of which none is whole.
    """

    def __init__(self, workdir: str | Path, host: Host | None = None, on_full_disk: str = "stop"):
        self.folder = Path(workdir).absolute() / FOLDER
        self._saving, self._host = 0, host or Host()
        self._tolerant = choose(ON_FULL_DISK, on_full_disk, "on_full_disk")
        self._failed: JaxsepError | None = None  # the last save
        best = policies.BestN(get_metric_fn=_sdr, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            best_fn=_sdr,
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(2), best]),
            todelete_subdir=DELETED,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        try:
            with self._host.ahead():
                self._tidy()
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        except OSError as error:
            raise JaxsepError(f"{self.folder}: cannot be used ({error}); choose another --workdir") from None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._host.count > 1 and not issubclass(kind, JaxsepError | Terminated):
            return  # others may be gone, without whom the last save cannot be completed
        try:
            if kind is None:
                self.wait()
            self._guard(self._manager.close)
            self._empty_bin()
        except JaxsepError:
            if kind is None:  # else the error on its way out is the first one
                raise

    def save(
        self,
        step: int,
        items: Mapping[str, Any],
        meta: Mapping[str, Any],
        sdr: float | None = None,
        weights: str | None = None,
    ) -> None:
        """Starts a save when the one before is complete; the arrays may be donated as soon as this returns.

        Args:
            step: the checkpoint's name, larger than those before.
            items: name -> pytree of arrays.
            meta: JSON values that belong to the state.
            sdr: validation SDR at this step, or None where it was not validated. With it a checkpoint of the same
                step that was saved before it was validated is replaced.
            weights: the item whose parameters have this SDR.

        Raises:
            JaxsepError: this save or the one before failed, e.g. because the disk is full, and is not tolerated.
        """
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items() if jax.tree.leaves(tree)}
        composite = ocp.args.Composite(meta=ocp.args.JsonSave(dict(meta)), **args)
        metrics = None if sdr is None else {"sdr": sdr} | ({"weights": weights} if weights else {})
        self._settle()
        self._empty_bin()
        self._saving = step
        try:
            self._guard(lambda: self._check_room(items))
        except JaxsepError as error:
            self._pass_over(error)
            return
        if sdr is not None and step in self._manager.all_steps():
            self._guard(lambda: self._manager.delete(step))
        self._guard(lambda: self._manager.save(step, args=composite, metrics=metrics))
        self._failed = None

    def wait(self) -> None:
        """Returns when the last save is complete.

        Raises:
            JaxsepError: it failed.
        """
        self._settle()
        if self._failed:
            raise self._failed

    def restore(self, template: Mapping[str, Any]) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        """The newest checkpoint as (step, items, meta), or None when there is none.

        Args:
            template: items as `save` took them; the leaves are arrays, or shapes with shardings. Items of `ADDED` that
                the checkpoint does not have stay as they are.

        Raises:
            JaxsepError: the newest checkpoint does not fit the template.
        """
        step = self._manager.latest_step()
        return None if step is None else (step, *_restore(self._manager, self.folder / str(step), template))

    def _settle(self) -> None:
        """Waits for the last save."""
        try:
            self._guard(self._manager.wait_until_finished)
        except JaxsepError as error:
            if self._host.count > 1:  # the others do not know
                raise
            self._pass_over(error)

    def _pass_over(self, error: JaxsepError) -> None:
        """A save that failed."""
        if not self._tolerant:
            raise error
        integrity.warn(f"the run goes on without a checkpoint: {error}")
        self._failed = error
        self._tidy()
        self._manager.reload()

    def _check_room(self, items: Mapping[str, Any]) -> None:
        """Refuses beforehand what would fill the disk: a write that fails half way makes Orbax's threads noisy."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(dict(items))) + ROOM
        free = self._host.gather(shutil.disk_usage(self.folder).free)[0]  # so that all save or none does
        if free < needed:
            raise OSError(f"it takes {needed / 2**20:.1f} MiB and {free / 2**20:.1f} MiB are free")

    def _tidy(self) -> None:
        """Removes what a kill left, and sets aside what is damaged."""
        if self._host.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in (*self.folder.glob(f"*{TEMPORARY}*"), self.folder / DELETED):
                shutil.rmtree(leftover, ignore_errors=True)
            integrity.set_damaged_aside(self.folder)

    def _empty_bin(self) -> None:
        if self._host.first:
            shutil.rmtree(self.folder / DELETED, ignore_errors=True)

    def _seal(self) -> None:
        """Called by Orbax when every item is written and the folder still has its temporary name."""
        (folder,) = self.folder.glob(f"{self._saving}{TEMPORARY}*")
        integrity.seal(folder)

    def _guard(self, action: Callable[[], Any]) -> None:
        """Runs an action of the manager; what fails in it, or behind it in a thread, is a save."""
        try:
            action()
        except Exception as error:  # whatever the file system, TensorStore or a thread of Orbax met
            if self._host.count > 1 and tells_of_loss(error):  # of the step whose arrays are saved, or of the save
                raise
            whole = [step for step in integrity.steps(self.folder) if not integrity.damage(self.folder / str(step))]
            kept = f"checkpoint {whole[-1]} is kept" if whole else "there is no checkpoint yet"
            raise JaxsepError(
                f"{self.folder / str(self._saving)}: could not be written ({_short(error)}); {kept}; "
                "make room on the disk and start again with the same command"
            ) from None


def _restore(
    manager: ocp.CheckpointManager, checkpoint: Path, template: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Items and meta of a checkpoint."""
    names = [name for name, tree in template.items() if jax.tree.leaves(tree)]
    names = [name for name in names if name not in ADDED or (checkpoint / name).is_dir()]
    args = {name: ocp.args.StandardRestore(template[name]) for name in names}
    try:
        found = manager.restore(int(checkpoint.name), args=ocp.args.Composite(meta=ocp.args.JsonRestore(), **args))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise JaxsepError(f"{checkpoint}: does not fit this model ({_short(error)})") from None
    return {**template, **{name: found[name] for name in names}}, found["meta"]


def load_state(workdir: str | Path, template: Mapping[str, Any]) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """The newest checkpoint that is whole, as `Checkpoints.restore` gives it; the run folder stays as it is.

    Raises:
        JaxsepError: there is none, or it does not fit the template.
    """
    folder = Path(workdir).absolute() / FOLDER
    checkpoint = _newest_whole(folder, integrity.steps(folder))
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(read_only=True)) as manager:
        return int(checkpoint.name), *_restore(manager, checkpoint, template)


def _newest_whole(folder: Path, steps: list[int]) -> Path:
    """The last of some checkpoints that can be read; those passed over are named."""
    for checkpoint in (folder / str(step) for step in reversed(steps)):
        reason = integrity.damage(checkpoint)
        if reason is None:
            return checkpoint
        integrity.warn(f"{checkpoint}: damaged ({reason}); passed over")
    raise JaxsepError(f"{folder}: there is no checkpoint that can be read; train first, or name another run folder")


def load_variables(workdir: str | Path, which: str | int = "best") -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and batch statistics, without the optimiser.

    Where the run has averaged parameters, they are those that had the best validation SDR at the step, and the first
    ones of a step that was not validated.

    Args:
        workdir: the run folder.
        which: "best" (validation SDR; the last, where none was validated), "last", or a step.

    Returns:
        Flax variables as numpy arrays, and {"step", "sdr"}.

    Raises:
        JaxsepError: no such checkpoint, or none that is whole.
    """
    folder = Path(workdir).absolute() / FOLDER
    steps = integrity.steps(folder)
    if which == "best":
        steps.sort(key=lambda step: (_score(folder / str(step)), step))
    elif which != "last":
        if which not in steps:
            raise JaxsepError(f"{folder}: no checkpoint {which!r}; expected best, last or one of {steps}")
        steps = [int(which)]
    checkpoint = _newest_whole(folder, steps)
    score = _score(checkpoint)
    return _variables(checkpoint), {"step": int(checkpoint.name), "sdr": None if score == -np.inf else score}


def load_start(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """The best weights of the run that `config.init` names, from which another training starts.

    Its front end is that of the config, or without parameters what that one starts as.

    Returns:
        Flax variables as numpy arrays, and {"run", "step", "sdr"}.

    Raises:
        JaxsepError: no run folder, other sources, another front end, or no checkpoint that is whole.
    """
    run = storage.here(config.init)
    other = run_config(run)
    sources = [",".join(parse_sources(text)) for text in (other.sources, config.sources)]
    if sources[0] != sources[1]:
        raise JaxsepError(f"init={config.init}: a run with sources={sources[0]}, this config has {sources[1]}")
    front = frontends.build(config)
    if not front.fixed and not frontends.continues(front, frontends.build(other)):
        raise JaxsepError(
            f"init={config.init}: a run with front={other.front.to_dict()}; front.name={config.front.name!r} needs one "
            "of its own kind, or learnable_stft and adaptive_stft an stft with the same values"
        )
    variables, origin = load_variables(run)
    return variables, {"run": config.init if storage.is_address(config.init) else str(run.absolute()), **origin}


def save_variables(workdir: str | Path, variables: Mapping[str, Any], step: int = 0, sdr: float | None = None) -> None:
    """Writes the only checkpoint of a run folder that separates and is scored, but cannot be trained further.

    Args:
        workdir: the run folder.
        variables: Flax variables, "params" and where there are some "batch_stats".
        step: the checkpoint's name.
        sdr: validation SDR, where it is known.

    Raises:
        JaxsepError: the folder cannot be written.
    """
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(step, variables, {"history": []}, sdr)


def _variables(checkpoint: Path) -> dict[str, Any]:
    """Reads parameters and batch_stats, whatever devices they were saved from."""
    params = _metrics(checkpoint).get("weights") or ("ema" if (checkpoint / "ema").is_dir() else "params")
    variables = {}
    with ocp.StandardCheckpointer() as reader:
        for collection, item in (
            ("params", checkpoint / params),
            ("batch_stats", checkpoint / "batch_stats"),
        ):
            if item.is_dir():
                saved = reader.metadata(item).item_metadata.tree
                target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved)
                variables[collection] = reader.restore(item, target)
    return variables


def _score(checkpoint: Path) -> float:
    """Validation SDR of a checkpoint, -inf where it was not validated."""
    return _metrics(checkpoint).get("sdr", -np.inf)


def _metrics(checkpoint: Path) -> dict[str, Any]:
    """What `save` was told of a checkpoint's validation; {} where it was not validated."""
    try:
        return json.loads((checkpoint / "metrics" / "metrics").read_text())
    except (OSError, ValueError):
        return {}


def _sdr(metrics: Mapping[str, Any]) -> float:
    return metrics["sdr"]


def _short(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
