"""Published weights as run folders: `jaxsep weights import | fetch | list`.

A kind of checkpoint is a module of this package with one function,

    def read(files: Sequence[Path]) -> Imported

which reads the tensors (`torch_files`, `hdf5` or `tf1`: files never execute code), makes the config that fits them
(`configs.load_config("configs/<system>.py:<variant>")`, adjusted) and places them into the separator's variables
(`tensors`). It raises `JaxsepError` for files that are not what it expects. `importing` writes the run folder,
`catalogue` knows what is published where, `fetch` downloads it.
"""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxsep import config as configs

UNKNOWN = "not stated"


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where weights come from; what nobody states is "not stated".

    Attributes:
        name: of the weights, e.g. "Spleeter 4stems (Deezer)".
        address: the page or file they come from.
        licence: of the weights.
        training_data: what they were trained on.
        commercial_use: yes, no, or not stated.
    """

    name: str = UNKNOWN
    address: str = UNKNOWN
    licence: str = UNKNOWN
    training_data: str = UNKNOWN
    commercial_use: str = UNKNOWN


@dataclasses.dataclass(frozen=True)
class Imported:
    """What a kind makes of its files.

    Attributes:
        config: the locked config of a run that such weights could come from.
        variables: {"params": ..., "batch_stats": ...}, float32 numpy arrays as `separator.build(config)` wants them.
        origin: as far as the files themselves state it.
    """

    config: configs.Config
    variables: Mapping[str, Any]
    origin: Origin = Origin()


@dataclasses.dataclass(frozen=True)
class Kind:
    """A published checkpoint format.

    Attributes:
        system: as people call it.
        files: what to give `jaxsep weights import`.
        marks: patterns; among the tensors of such a file every one of them has a match.
    """

    system: str
    files: str
    marks: tuple[str, ...]


KINDS = {
    "asteroid": Kind("asteroid's models", "the .pth or .bin file that its `serialize` makes", ("masker.*",)),
    "cunet": Kind("C-U-Net", "the Keras .h5 file", ("*conv2d*kernel*", "*dense*kernel*")),
    "d3net": Kind("D3Net", "the NNabla .h5 file of each source", ("*in_offset", "*dense_full/*")),
    "demucs": Kind(
        "Demucs",
        "the .th or .th.gz file, or a bag: its .yaml and .th files",
        ("encoder.*.0.weight", "decoder.*.0.weight"),
    ),
    "dccrn": Kind(
        "DCCRN",
        "the state_dict of the authors' code, a PyTorch file",
        ("encoder.0.0.real_conv.weight", "decoder.*.0.imag_conv.weight", "istft.window"),
    ),
    "lasaft": Kind("LaSAFT", "the Lightning .ckpt file", ("*condition_generator.*", "*encoders.*.tfc.*")),
    "openunmix": Kind("Open-Unmix", "the .pth file of each target", ("fc1.weight", "lstm.weight_ih_l0")),
    "spleeter": Kind(
        "Spleeter",
        "the TensorFlow checkpoint: its folder, .index file or .tar.gz",
        ("conv2d/kernel", "conv2d_transpose/kernel", "batch_normalization/moving_mean"),
    ),
}


def read(kind: str, files: Sequence[Path]) -> Imported:
    """Reads the files of a kind.

    Raises:
        JaxsepError: an unknown kind, or files that are not what it expects.
    """
    configs.choose(KINDS, kind, "KIND")
    return importlib.import_module(f"jaxsep.weights.{kind}").read(files)
