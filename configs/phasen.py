"""PHASEN (Yin, Luo, Xiong, Zeng: A phase-and-harmonics-aware speech enhancement network, AAAI 2020).

The paper enhances speech: 16 kHz mono, 257 bins, trained and scored on VoiceBank-DEMAND, PESQ 2.99. It has no score on
music, and neither do the public codes. The recipe of `speech` is that of github.com/IMLHF/PHASEN-PyTorch, which reports
PESQ 2.988: crops of 3 s, batch 12, Adam at 5e-4 with 6,000 steps of warm-up, 40,000 steps, loss on spectra to the power
0.3. Data: one folder per utterance with speech.wav and noise.wav (in VoiceBank-DEMAND, noisy minus clean), of 3 s or
more, at any rate.

    python train.py --config=configs/phasen.py --workdir=runs/phasen --config.data.root=/data/voicebank-demand
    python train.py --config=configs/phasen.py:music --workdir=runs/phasen --config.data.root=/data/musdb18hq

Our deviations: windows of 32 ms every 8 ms instead of 25 ms every 10 ms in an FFT of 512, as the front end's hop
divides its window (the net sees the same 257 bins); the rate falls along a cosine behind the warm-up.

`music` is our form for 44.1 kHz stereo. STFT 1024/512 is the nearest to the paper's 25 ms and 10 ms at that rate. The
net sees its lowest 257 bins, as many as the paper's and up to 11 kHz as Spleeter's; above stand zeros
(`--config.front.bins=513` for the full band, 42.1 M parameters per net). The attention map has a value per frame and
channel instead of per frame and bin, which would grow with 45 F^2 weights: 24.0 M parameters per net, where the paper's
map has 35.2 M. Two audio channels are four real inputs, two masks and two phasors. Each source has a net of its own:
the published net has one amplitude and one phase stream for one source, sources can be trained apart, and in one net
all masks would have to come through the same eight channels per bin in front of the BLSTM.

Variants: `speech` (default), `music`, `report` (the recipe of a comparative study, mono, 4096/1024), `demo` (the
music form, narrow, on the built-in songs, minutes on two cores).
"""

from jaxsep.config import Config, choose, defaults, study

# variant -> parameters of the public implementation, two biases per LSTM gate; None where there is none
VARIANTS = {"speech": 35_000_553, "music": None, "report": None, "demo": None}


def get_config(variant: str = "speech") -> Config:
    """The config of a variant, locked."""
    choose(VARIANTS, variant, "variant of configs/phasen.py")
    config: Config = defaults()
    config.name, config.variant = "phasen", variant
    config.paper.title = "PHASEN: A phase-and-harmonics-aware speech enhancement network"
    config.paper.year = 2020
    config.paper.url = "https://arxiv.org/abs/1911.04697"
    config.paper.score = "VoiceBank-DEMAND: PESQ 2.99; none on music"
    config.model.name = "phasen"
    config.model.amplitude, config.model.phase, config.model.reduced = 96, 48, 5
    config.model.blocks, config.model.squeeze, config.model.units = 3, 8, 600
    config.model.attention, config.model.phase_input, config.model.residual = "frequency", "unit", False
    config.per_source = True
    config.head = {"name": "amplitude_phase"}
    config.loss.name = "compressed"
    config.data.batch_size = 12
    config.optim.learning_rate = 5e-4
    config.optim.schedule.name = "warmup_cosine"
    config.optim.schedule.warmup = 6_000
    config.steps = 40_000
    {"speech": _speech, "music": _music, "report": _report, "demo": _demo}[variant](config)
    return config.lock()


def _speech(config: Config) -> None:
    """16 kHz mono, the clean speech in its sum with noise."""
    config.sources, config.data.stems = "speech", "speech,noise"
    config.sample_rate, config.channels = 16_000, 1
    config.data.resample = True
    config.front.frame, config.front.hop, config.front.bins = 512, 128, 257
    config.front.padding = "reflect"
    config.data.segment = 3 * config.sample_rate


def _music(config: Config) -> None:
    """44.1 kHz stereo, four sources, one value of the attention per channel."""
    config.front.frame, config.front.hop, config.front.bins = 1024, 512, 257
    config.model.attention = "channel"
    config.data.segment = 3 * config.sample_rate
    config.data.remix, config.data.gain, config.data.swap = "stem", (0.25, 1.25), 0.5


def _report(config: Config) -> None:
    """The study, with the system's own loss.

    A net has 121 M parameters at so many bins: train the sources one at a time (`--config.sources=vocals`).
    """
    study(config)
    config.model.attention = "channel"
    config.data.segment = 512 * config.front.hop - config.front.frame  # 512 frames


def _demo(config: Config) -> None:
    """The music form on built-in songs with one block of few channels: minutes on two cores.

    Compared as complex spectra: under the compressed loss so small a net stays near silence for long.
    """
    _music(config)
    config.data.source = "builtin"
    config.model.amplitude, config.model.phase, config.model.reduced = 8, 8, 2
    config.model.blocks, config.model.squeeze, config.model.units = 1, 2, 96
    config.data.batch_size = 4
    config.data.segment = 32 * config.front.hop - config.front.frame  # 32 frames
    config.data.gain = (0.5, 1.5)
    config.loss.name = "complex_l2"
    config.optim.learning_rate = 2e-3  # at 3e-3 the BLSTM saturates within the first steps and the mask stays constant
    config.optim.schedule.warmup = 50
    config.steps = 800
    config.log_every, config.save_every, config.eval_every = 20, 200, 400
