"""What a training step of a config has to hold, by its shapes alone: nothing is computed, and no large machine needed.

    python benchmarks/memory.py --config=configs/demucs.py:v1
    python benchmarks/memory.py --config=configs/demucs.py:v1 --devices 4 --set parallel=fsdp 'remat=net/*'

The state (parameters, averages, the optimiser's moments) and the gradient are those of one device. What the backward
pass finds in memory is that of one micro-batch, divided by the devices; what XLA needs beside it, it does not say.
"""

import argparse
import contextlib
import functools
import io
import math
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxsep import config as configs
from jaxsep import losses, optim, remat, separator, sharding, training


def settings(spec: str, changes: list[str]) -> ConfigDict:
    """The config with some changes, as in `precision=bfloat16`."""
    config = configs.load_config(spec)
    for change in changes:
        key, _, value = change.partition("=")
        config.update_from_flattened_dict({key: type(config.get_ref(key).get())(value)})
    return config


def kept(text: str, objective, *args: PyTree) -> int:
    """Bytes that the gradient of an objective keeps apart from its arguments."""
    with contextlib.redirect_stdout(io.StringIO()) as told:
        jax.ad_checkpoint.print_saved_residuals(remat.rematerialised(objective, text), *args)
    total = 0
    for line in told.getvalue().splitlines():
        match = re.match(r"(\w+)\[([\d,]*)\]", line)
        if match and "from the argument" not in line:
            width = 1 if match[1] == "bool" else int(re.findall(r"\d+", match[1])[-1]) // 8
            total += width * math.prod(int(length) for length in match[2].split(",") if length)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices)
    config, mesh = settings(options.config, options.set), training.make_mesh()
    training.check_batch(config, mesh)
    model = separator.build(config)
    optimiser = optim.build(config.optim, config.steps, model.policy.float16)
    whole = sharding.whole(mesh)
    state = jax.eval_shape(functools.partial(training.init_state, model, optimiser, config, mesh))

    def held(tree: PyTree) -> int:
        """Bytes on each device."""
        where = sharding.in_parts(tree, mesh) if config.parallel == "fsdp" else jax.tree.map(lambda _: whole, tree)
        shapes = jax.tree.map(lambda leaf, place: np.array(place.shard_shape(leaf.shape)), tree, where)
        return sum(4 * int(shape.prod()) for shape in jax.tree.leaves(shapes))

    size, sources = config.data.batch_size // config.optim.accumulate, len(configs.parse_sources(config.sources))
    shape = (size, config.data.segment, config.channels)
    batch = {"mix": shape, "sources": (size, sources, *shape[1:])}
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in batch.items()}
    objective = training.make_objective(model, losses.from_config(config), config)
    scalar = lambda params, batch, state: objective(params, state, state.batch_stats, batch, 0)[0]
    rows = {
        "parameters": held(state.params),
        "averages and moments": held((state.ema, state.opt_state)),
        "gradient": held(state.params),
        "kept for the backward pass": kept(config.remat, scalar, state.params, batch, state) // mesh.size,
    }
    print(f"{options.config} {' '.join(options.set)}, {mesh.size} device(s), GiB of each:")
    for name, count in rows.items():
        print(f"  {name:27} {count / 2**30:8.3f}")


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
