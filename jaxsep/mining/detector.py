"""The activity detector of unlabeled remixing (Defossez et al., arXiv 1909.01174): which sources are silent when.

The authors released neither code nor sizes; this is a reconstruction. It is Demucs' encoder, a BLSTM over its frames
and one sigmoid per source and window of about half a second. The truth it learns from is the energy of stems: a source
is silent in a window whose mixture has more than 30 dB more energy; a window with nothing to hear says nothing.
"""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from jaxsep import config as configs
from jaxsep.data.tracks import STEM_MP4
from jaxsep.layers.conv1d import Conv1D
from jaxsep.layers.recurrent import BLSTM
from jaxsep.types import Separation

Waves = Array | np.ndarray
NAME = "activity"  # model.name of a detector's config
KERNEL, STRIDE = 8, 4
SILENT = 30.0  # dB below the mixture
AUDIBLE = 1e-6  # mean square of the quietest window that is listened to: -60 dB of full scale


class Activity(nn.Module):
    """Levels of convolution 8/4, ReLU, 1x1, GLU, each twice as wide as the one before; BLSTM; sigmoids.

    Demucs' encoder, but that its convolutions are padded, so that a frame is the middle of what it sees, and that
    initial values keep the power of the input (He), which teaches small nets sooner than Demucs' rescaled ones.
    Mixtures come in at unit deviation.

    It takes the place of a separator: its "stems" are the probabilities of silence, window by window, as waves. So
    songs of any length and channel count go through it as through any separator.

    Attributes:
        sources: number of sources.
        channels: C_0, width of the first level.
        depth: L, number of levels; a frame is 4^L samples.
        layers: of the BLSTM.
        frames: of a window.
    """

    sources: int
    channels: int = 32
    depth: int = 5
    layers: int = 2
    frames: int = 11

    @property
    def window(self) -> int:
        """Samples of a window."""
        return self.frames * STRIDE**self.depth

    @nn.compact
    def logits(self, mix: Float[Array, "b t c"]) -> Float[Array, "b n s"]:
        """Log odds of each source's silence in each window; t is a whole number of windows."""
        x = mix / (1e-4 + mix.std(axis=(1, 2), keepdims=True))
        edge = (KERNEL - STRIDE) // 2
        for i in range(self.depth):
            width = self.channels * 2**i
            x = nn.relu(_conv(f"conv{i}", width, 2.0, KERNEL, stride=STRIDE, padding=(edge, edge))(x))
            x = nn.glu(_conv(f"glu{i}", 2 * width, 4.0, 1)(x))
        x = BLSTM(x.shape[-1], self.layers, name="blstm")(x, False)
        x = x.reshape(len(x), -1, self.frames, x.shape[-1]).mean(axis=2)
        return nn.Dense(self.sources, name="silent")(x)

    def __call__(self, mix: Float[Array, "b t c"], targets: None, train: bool) -> Separation:
        """Probabilities of silence [b s t c], in the place of stems."""
        silent = jnp.moveaxis(jax.nn.sigmoid(self.logits(mix)), 1, 2)
        stems = jnp.repeat(silent, self.window, axis=2)[..., None]
        stems = jnp.broadcast_to(stems, (*stems.shape[:3], mix.shape[2]))
        return Separation(stems, stems)


def _conv(name: str, features: int, scale: float, kernel: int, **more: Any) -> Conv1D:
    """A convolution whose kernel has the variance scale / inputs, and whose bias starts at zero."""
    scaled = nn.initializers.variance_scaling(scale, "fan_in", "normal")
    return Conv1D(features, kernel, kernel_init=scaled, bias_init=nn.initializers.zeros, name=name, **more)


def build(config: configs.Config) -> Activity:
    """The net that a detector's config describes.

    Raises:
        JaxsepError: a field that does not exist.
    """
    count = len(configs.parse_sources(config.sources))
    return configs.construct({NAME: Activity}, config.model, "model", sources=count)


def get_config(**model: Any) -> configs.Config:
    """The recipe of a detector: 12 seconds of remixed stems at 22,050 Hz, Adam at 3e-4, 20,000 steps of 16.

    Args:
        model: fields of `Activity` with other values than its own.
    """
    config: Any = configs.defaults()
    config.name, config.variant = NAME, "reconstruction"
    config.paper.title = "Demucs: Deep Extractor for Music Sources with extra unlabeled data remixed"
    config.paper.year, config.paper.url = 2019, "https://arxiv.org/abs/1909.01174"
    config.sample_rate = 22050
    config.model = {"name": NAME, "channels": 32, "depth": 5, "layers": 2, "frames": 11} | model
    config.front = {"name": "identity"}
    config.head = {"name": "map"}
    config.loss.name = "wave_l1"
    config.data.update(batch_size=16, remix="stem", gain=(0.25, 1.25), swap=0.5, sign=0.5, resample=True)
    config.optim.learning_rate = 3e-4
    config.optim.schedule.update(name="warmup_cosine", warmup=100)
    config.steps, config.save_every = 20_000, 500
    cut(config, windows=24)
    return config


def of_songs(
    songs: str | Path, stems: str, seed: int = 0, channels: int | None = None, steps: int | None = None
) -> configs.Config:
    """The recipe for a data set.

    Args:
        songs: its folder.
        stems: of which each is a source, and all together the mixture.
        seed: of weights and draws.
        channels: C_0; None = the recipe's own.
        steps: None = the recipe's own.
    """
    config = get_config(**({} if channels is None else {"channels": channels}))
    musdb18 = any(Path(songs).glob(f"*/*{STEM_MP4}"))
    config.data.source, config.data.root = "musdb18" if musdb18 else "folder", str(songs)
    config.sources = config.data.stems = ",".join(configs.parse_stems(stems))
    config.seed, config.steps = seed, config.steps if steps is None else steps
    return config


def cut(config: configs.Config, windows: int) -> None:
    """Examples, and the segments of songs, of so many windows; segments share half of them."""
    config.data.segment = windows * build(config).window
    config.inference.segment = config.data.segment / config.sample_rate
    config.inference.overlap = 0.5


def labels(
    mix: Float[Waves, "b t c"], sources: Float[Waves, "b s t c"], window: int
) -> tuple[Bool[Waves, "b n s"], Bool[Waves, "b n 1"]]:
    """The truth in each window: which sources are silent, and whether there is anything to hear."""
    whole, parts = _energy(mix[:, None], window), _energy(sources, window)
    return parts < whole * 10 ** (-SILENT / 10), whole > AUDIBLE


def _energy(waves: Float[Waves, "b s t c"], window: int) -> Float[Waves, "b n s"]:
    """Mean square of each window; what is left behind the last whole one is not looked at."""
    count = waves.shape[2] // window
    parts = waves[:, :, : count * window].reshape(*waves.shape[:2], count, window, waves.shape[3])
    return (parts**2).mean(axis=(3, 4)).swapaxes(1, 2)
