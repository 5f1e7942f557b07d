"""Spleeter's checkpoints (TensorFlow 1; github.com/deezer/spleeter): 2, 4 or 5 instruments.

Its layers have the names that Keras gave them in the order of their making, counted on from one instrument to the
next. Per instrument these are 7 `conv2d` (six levels and the output), 6 `conv2d_transpose` and 12
`batch_normalization` (six behind the convolutions, six of the decoder). Which activations a net was trained with is
not in the file: they are those of the released model of as many instruments.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.weights import Imported, Origin, tensors, tf1

LEVELS = 6
VARIANTS = {2: "2stems", 4: "4stems", 5: "5stems"}
# Of the optimiser and the training loop.
IGNORED = ("global_step", "beta1_power*", "beta2_power*", "*/Adam", "*/Adam_1", "*/Adam/*", "training/*")


def read(files: Sequence[Path]) -> Imported:
    """The separator of one checkpoint.

    Raises:
        JaxsepError: not one file, not a checkpoint of Spleeter, or not one of 2, 4 or 5 instruments.
    """
    if len(files) != 1:
        raise JaxsepError(f"spleeter: expected one checkpoint, {tf1.EXPECTED}; {len(files)} were given")
    (file,) = files
    found = tf1.read(file, IGNORED)
    tensors.check_kind("spleeter", found, file)
    count = sum(name.endswith("/kernel") and name.startswith("conv2d_transpose") for name in found) / LEVELS
    if count not in VARIANTS:
        raise JaxsepError(
            f"{file}: has {count * LEVELS:g} transposed convolutions, expected {LEVELS} per instrument of 2, 4 or 5"
        )
    config = configs.load_config(f"configs/spleeter.py:{VARIANTS[int(count)]}")
    kernels = [found.get(f"{_name('conv2d', level)}/kernel", np.empty(0)) for level in range(LEVELS)]
    config.model.channels = tuple(kernel.shape[-1] for kernel in kernels)
    table = {}
    for number, source in enumerate(configs.parse_sources(config.sources)):
        table |= _instrument(f"net/{source}", number)
    variables = tensors.place(tensors.shapes(config), table, found, file)
    return Imported(config, variables, Origin(f"Spleeter, {config.variant}"))


def _instrument(net: str, number: int) -> dict[str, tensors.Rule]:
    """The rules of one instrument's net; `number` counts the instruments from 0."""
    convs, deconvs, norms = (number * size for size in (LEVELS + 1, LEVELS, 2 * LEVELS))
    table = tensors.keras_layer(f"{net}/logits", _name("conv2d", convs + LEVELS))
    for i in range(LEVELS):
        level = LEVELS - i  # of the decoder, which is built from the deepest one up
        table |= tensors.keras_layer(f"{net}/conv{i + 1}", _name("conv2d", convs + i))
        table |= tensors.keras_batch_norm(f"{net}/norm{i + 1}", _name("batch_normalization", norms + i))
        table |= tensors.keras_layer(f"{net}/deconv{level}", _name("conv2d_transpose", deconvs + i))
        table |= tensors.keras_batch_norm(f"{net}/denorm{level}", _name("batch_normalization", norms + LEVELS + i))
    return table


def _name(layer: str, number: int) -> str:
    return f"{layer}_{number}" if number else layer
