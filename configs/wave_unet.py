"""Wave-U-Net (Stoller, Ewert, Dixon: a multi-scale neural network for end-to-end audio source separation, ISMIR 2018).

The recipe is that of the authors' code (github.com/f90/Wave-U-Net, commit 75eeae6): 22.05 kHz, squared error of waves
averaged over the sources, each stem times 0.7 to 1.0 and the mixture their sum, random snippets of songs with silence
around them as long as the net's context, batch 16, Adam at 1e-4, epochs of 2,000 steps until 20 of them in a row were
not better. A second phase goes on from there with batch 32 at 1e-5, again until 20 epochs were not better. Snippets
give 16,389 samples of 147,443 (without context 16,384 of as many), and songs are separated in blocks of that length,
the last one moved back to end with the song.

| variant | |
|---|---|
| `m1` | mono; padded convolutions; a head for each of accompaniment and vocals |
| `m2` | the vocals are the mixture without the accompaniment |
| `m3` | convolutions without padding, in the mixture's context |
| `m4` (default), `m5`, `m5-44k` | stereo; learned upsampling; that at 44.1 kHz (not in the paper) |
| `m6` | `m4` for four sources |
| `m7` | `m3` at 8,192 Hz, 34 filters, 102,405 of 233,459 samples, batch 4, to compare with a spectrogram U-net |
| `<variant>-finetune` | the second phase, from the run that `init` names |
| `report`, `demo` | the recipe of a comparative study, mono; narrow, on the built-in songs, minutes on two cores |

    python train.py --config=configs/wave_unet.py:m4 --workdir=runs/wave_unet_m4 --config.data.root=/data/musdb18hq
    python train.py --config=configs/wave_unet.py:m4-finetune --workdir=runs/wave_unet_m4_finetune \
        --config.init=runs/wave_unet_m4 --config.data.root=/data/musdb18hq

Published on MUSDB18's test songs, median over all seconds of all songs together (museval): M4 vocals 4.46,
accompaniment 10.69; M6 drums 4.15, bass 2.91, other 2.04, vocals 2.99. As median of seconds, then of songs: M4 4.97 and
11.11; M6 4.22, 3.21, 2.25, 3.25.

What differs from the authors' code:

- Songs: MUSDB18's 14 validation songs are held out, not 25 at random, and vocals are trained without CCMixter.
- Each example is a snippet of a song of its own, where the authors draw from a buffer with 100 snippets of each of 40.
- The second phase begins with the weights that had the best validation SDR and with a new optimiser; the authors go on
  with those of the last epoch and judge by the squared error. `steps` limits a run that keeps getting better.
"""

from jaxsep import separator
from jaxsep.config import Config, choose, defaults, study

COUNTS = {
    "m1": 10_263_028,
    "m2": 10_263_002,
    "m3": 10_263_002,
    "m4": 10_263_390,
    "m5": 10_265_550,
    "m6": 10_263_498,
    "m7": 20_594_652,
    "m5-44k": 10_265_550,
}
# variant -> parameters of the published implementation
VARIANTS = {**COUNTS, **{f"{name}-finetune": count for name, count in COUNTS.items()}, "report": None, "demo": None}

SNIPPET = 16_384  # samples that a snippet is at least to yield
SNIPPET_M7 = 127 * 768 + 1024  # as many as 128 frames of the spectrogram U-net
EPOCH = 2_000  # steps


def get_config(variant: str = "m4") -> Config:
    """The config of a variant, locked."""
    choose(VARIANTS, variant, "variant of configs/wave_unet.py")
    config: Config = defaults()
    config.name, config.variant = "wave_unet", variant
    config.paper.title = "Wave-U-Net: a multi-scale neural network for end-to-end audio source separation"
    config.paper.year = 2018
    config.paper.url = "https://arxiv.org/abs/1806.03185"
    config.paper.score = "MUSDB18 test, seconds pooled: M4 V 4.46, accompaniment 10.69; M6 D 4.15 B 2.91 O 2.04 V 2.99"
    config.seed = 1337
    config.sources = "accompaniment=drums+bass+other,vocals"
    config.sample_rate, config.channels = 22_050, 2
    config.model.update(name="wave_unet", levels=12, filters=24, kernel=15, merge_kernel=5)
    config.model.update(upsampling="linear", difference=True, context=True)
    config.front, config.head = {"name": "identity"}, {"name": "map"}
    config.loss.name = "wave_l2"
    config.data.update(gain=(0.7, 1.0), batch_size=16, resample=True)
    config.optim.learning_rate = 1e-4
    config.steps, config.eval_every, config.patience = 1_000 * EPOCH, EPOCH, 20
    config.inference.overlap = 0.0
    name, second_phase, _ = variant.partition("-finetune")
    snippet = SNIPPET
    if name in ("m1", "m2", "m3", "m7"):
        config.channels = 1
    if name in ("m1", "m2"):
        config.model.context = False
    if name == "m1":
        config.model.difference = False
    elif name in ("m5", "m5-44k"):
        config.model.upsampling = "learned"
        config.sample_rate = 44_100 if name == "m5-44k" else 22_050
    elif name in ("m6", "report", "demo"):
        config.sources = "bass,drums,other,vocals"
    elif name == "m7":
        config.sample_rate, snippet = 8_192, SNIPPET_M7
        config.model.filters, config.data.batch_size = 34, 4
    if second_phase:
        _finetune(config, name)
    _snippet(config, snippet)
    if variant == "report":
        _report(config)
    elif variant == "demo":
        _demo(config)
    return config.lock()


def _snippet(config: Config, samples: int) -> None:
    """Examples and blocks that yield at least so many samples; songs are padded by what surrounds these."""
    fed, yielded = separator.build(config).net.lengths(samples)
    config.context = config.model.context
    config.data.segment, config.data.pad = fed, (fed - yielded) // 2
    config.inference.segment = yielded / config.sample_rate


def _finetune(config: Config, name: str) -> None:
    """The second phase."""
    config.init = f"runs/wave_unet_{name}"
    config.data.batch_size *= 2
    config.optim.learning_rate = 1e-5


def _report(config: Config) -> None:
    """The study: 6 s."""
    study(config)
    config.front = {"name": "identity"}
    _snippet(config, 6 * config.sample_rate)


def _demo(config: Config) -> None:
    """Built-in songs, mono; six levels of few filters."""
    config.seed = 0
    config.channels = 1
    config.model.update(levels=6, filters=12, upsampling="learned")
    config.data.update(source="builtin", remix="stem", batch_size=4)
    _snippet(config, SNIPPET)
    config.inference.segment = 4.0
    config.optim.learning_rate = 2e-3
    config.optim.schedule.update(name="warmup_cosine", warmup=30)
    config.steps, config.patience = 1_000, 0
    config.log_every, config.save_every, config.eval_every = 20, 250, 500
