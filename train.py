"""Trains a separator: config -> mesh -> data -> state -> step -> loop.

    python train.py --config=configs/spleeter.py:demo --workdir=runs/demo
    python train.py --config=configs/spleeter.py --workdir=runs/spleeter --config.data.root=/data/musdb18hq

`--augment=demucs_v2` takes the augmentations of a paper (`jaxsep/data/presets.py`) instead of the config's.
`--on-bad-file=skip` trains on without files that cannot be read; otherwise the first one stops the run, by name.
`--overfit` asks whether one batch can be learned by heart, `--find-rate` which learning rate to take
(`jaxsep/trials.py`); neither begins a run.
`--profile=100,5` traces steps 100 to 104 into the run folder's `profile`, for TensorBoard or Perfetto.

The same command goes on where a run was stopped or killed. Every value of the config can be given on the command
line, as in `--config.optim.learning_rate=3e-4`; a later start may change steps, patience, how often something is
logged, validated or saved, tensorboard, precision, parallel, remat, deterministic, where the data lies, and nothing
else.

Several processes, on one host or many, train one model: `--coordinator=HOST:PORT --processes=N --process=I` on each, or
`--coordinator=auto` under SLURM, Open MPI, Kubernetes or on a TPU pod (docs/scale.md).

Exit status: 0 finished, 1 where a trial fails, 2 with one line that says what to mend, 75 where another process died or
hangs, 130 after Ctrl-C, 143 after SIGTERM, on which the state of the running step is saved.
"""

import functools
import itertools
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jaxsep import arguments, determinism, memory, storage, trials
from jaxsep import config as configs
from jaxsep import workdir as workdirs
from jaxsep.errors import JaxsepError
from jaxsep.hosts import Host, join, parse_group
from jaxsep.supervision import exit_status, leave, supervise, supervised
from jaxsep.termination import Terminated


def train(
    config: configs.Config, folder: Path, argv: Sequence[str], host: Host, skip: bool = False, traced: str = ""
) -> None:
    """One run, in order; with `skip`, without files that cannot be read; `traced` names steps (`Profile`).

    Of several processes the first one writes.

    Raises:
        JaxsepError: anything that the user can mend.
        Terminated: SIGTERM came; the state is saved.
    """
    # --- Config: refused before anything slow is imported, then written into the run folder ---------------
    configs.check(config)
    host.agree("config", workdirs.comparable(config))
    host.agree("code", workdirs.code())
    with host.ahead():
        workdirs.open_workdir(folder, config, host.first)

    import jax
    import numpy as np

    from jaxsep import nonfinite, separator, training, validation
    from jaxsep.assembly import assemble
    from jaxsep.cache import keep_compiled
    from jaxsep.checkpoint import Checkpoints, load_start
    from jaxsep.compilations import Compilations
    from jaxsep.course import Course
    from jaxsep.data.opening import open_data
    from jaxsep.journal import Journal
    from jaxsep.profiling import Profile
    from jaxsep.sharding import collected

    memory.keep_freed()
    keep_compiled()

    # --- Mesh: all devices on one axis, the batch split over it -------------------------------------------
    mesh = training.make_mesh()
    training.check_batch(config, mesh)

    # --- Model, loss, optimiser ---------------------------------------------------------------------------
    model, loss, optimiser = assemble(config)
    terms = ("target",) if config.data.conditions else tuple(configs.parse_sources(config.sources))  # of the loss

    # --- Data: addressed by step, so that a run goes on from one integer ----------------------------------
    front = functools.partial(training.first_front, model, config) if separator.wants_statistics(model.net) else None
    with host.ahead():  # what process 0 makes up or measures, the others find in the run folder
        data = open_data(config, folder, front, skip, host.first)
        here = training.make_mesh(jax.local_devices())
        validate = validation.make_validate(model, loss, config, here, data.valid, host)
    host.agree("data", data.about)

    with Checkpoints(folder, host, config.on_full_disk) as checkpoints:
        # --- State: fresh, or with another run's weights, or the newest checkpoint that is whole ----------
        state = training.init_state(model, optimiser, config, mesh, data.statistics)
        step, course, window, origin = 0, Course(config), None, None
        if restored := checkpoints.restore(state.items()):
            step, items, meta = restored
            if meta.get("precision") != config.precision:  # what overflowed may not do so any more
                items["loss_scale"] = state.loss_scale
            state = training.TrainState.from_items(items, state.ok)
            course.history, window = meta["history"], meta["window"]
        elif config.init:
            variables, origin = load_start(config)
            state = training.start_from(state, variables, optimiser)

        if course.over(step) and course.validated(step):
            print(f"{folder}: finished at step {step}; to go on, raise --config.steps or --config.patience")
            return
        profile = Profile(folder, traced if host.first else "", step, config.steps)
        if host.first:
            workdirs.record_run(folder, argv, data.about, step, origin)

        # --- Step: compiled before the loop, so a batch of another shape is an error and not a recompilation
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        device = f"{mesh.size} x {jax.devices()[0].device_kind}"
        device += f" in {host.count} processes" if host.count > 1 else ""
        print(f"{config.name}: {parameters:,} parameters, {device}, step {step} of {config.steps}", flush=True)
        stream = data.stream(step, host)
        started = time.perf_counter()
        # The first batch is read while XLA compiles.
        with memory.suggesting(config), ThreadPoolExecutor(1) as reader:
            first = reader.submit(next, stream)
            train_step = training.compile_train_step(model, loss, optimiser, config, mesh, state, reuse=host.count == 1)
            compiled = time.perf_counter()
            queue = itertools.chain([first.result()], stream)
        print(f"compiled in {compiled - started:.1f} s", flush=True)
        host.gather(None)

        # --- Loop: the numbers of a step are fetched while the next one runs ------------------------------
        journal = Journal(folder, config, step, train_step.work(config, mesh), window, host.first)
        progress = journal.progress

        def save(sdr: float | None = None, weights: str | None = None) -> None:
            meta = {"history": course.history, "window": journal.state()}
            if state.loss_scale is not None:
                meta["precision"] = config.precision
            with compilations.first_only("saving"):
                checkpoints.save(int(state.step), state.items(), meta, sdr, weights)

        def settle(at: int, metrics: training.Metrics) -> None:
            with progress.waiting("device"):
                metrics = jax.device_get(metrics)
            profile.finished(at)
            if not metrics.ok:
                save()
                where = nonfinite.describe(config, mesh, state, training.put(next(data.stream(at - 1, host)), mesh))
                raise training.failure(metrics, at, terms, stream.describe(at - 1), where)
            journal.step(at, metrics.numbers(terms), stream.unreadable)

        def evaluate() -> tuple[float, str]:
            """The SDR, and whose it is: of several averages of the weights the best one counts."""
            started = time.perf_counter()
            with termination.interrupting(), compilations.first_only("the validation"):
                weights, result = validation.best(
                    lambda found: validate(collected(found, mesh), termination.look), state.candidates
                )
            course.add(step, result.scores["sdr"])
            journal.validation(step, result, time.perf_counter() - started)
            return result.scores["sdr"], weights

        def conclude() -> None:
            """Validation, where it is due, and a checkpoint; what SIGTERM interrupts, the next start makes up for."""
            try:
                sdr, weights = (None, None) if course.validated(step) else evaluate()
            except Terminated:
                sdr = weights = None
            save(sdr, weights)
            progress.skip(step)
            if termination.asked:
                checkpoints.wait()
                raise Terminated

        with memory.suggesting(config), host.termination() as termination, Compilations() as compilations, profile:
            running: training.Metrics | None = None
            if not course.validated(step):
                conclude()
            while not course.over(step):
                with compilations.first_only("the step"), profile.step(step + 1):
                    with progress.waiting("input"):
                        batch = training.put(next(queue), mesh)
                    with progress.waiting("device"):
                        state, metrics = train_step(state, batch, np.float32(course.scale()))
                if running is not None:
                    settle(step, running)
                step, running = step + 1, metrics
                termination.look()
                if course.validated(step) and step % config.save_every and not termination.asked:
                    continue
                settle(step, metrics)
                running = None
                conclude()
        journal.close()
    print(f"{folder}: {course.conclusion(step)}")


@exit_status
def main(argv: Sequence[str]) -> int:
    """The command; see above for its status."""
    if {"--help", "-h", "-help"} & set(argv):
        print(__doc__)
        return 0
    trial, words = trials.take(argv)
    group, words = parse_group(words)
    if group.coordinator and trial:
        raise JaxsepError("--overfit and --find-rate are tried by one process; leave --coordinator out")
    if group.coordinator and not supervised():
        return supervise(argv, group)
    config, workdir, skip, traced = arguments.parse(words)
    if config.deterministic:  # which XLA reads once, as the processes join at the latest
        determinism.require()
    if trial:
        with memory.suggesting(config), storage.working_copy(workdir) as folder:
            return trial(config, folder)
    with join(group) as host, storage.working_copy(workdir, host.first) as folder:
        train(config, folder, argv, host, skip, traced)
    return 0


if __name__ == "__main__":
    leave(main(sys.argv))
