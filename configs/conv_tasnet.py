"""Conv-TasNet (Luo, Mesgarani: Conv-TasNet: surpassing ideal time-frequency magnitude masking, TASLP 2019).

For music the recipe is that of demucs (github.com/facebookresearch/demucs, branch v2), whose authors made the net
stereo: 44.1 kHz, examples of 80,000 samples, songs standardised by their mono mix, L1 distance of waves, Adam at 3e-4
without decay or schedule, batch 32, ten blocks a repeat. A stem begins up to a second later than its place in the song,
by a draw of its own; its sign and its channels are turned half of the time, it is scaled by 0.25 to 1.25, and every
four examples exchange stems. One song of five has its pitch and tempo changed before. An epoch is two passes over the
windows that begin on whole seconds of the 86 training songs; 180 epochs. Separation: segments of four examples' length,
a quarter shared, 10 random shifts averaged.

For speech it is that of asteroid (github.com/asteroid-team/asteroid, egs/wham): 8 kHz, 4 s of two speakers, negative
SI-SDR of waves without their mean under the best order of the speakers, Adam at 1e-3, halved when validation has not
improved for five epochs, gradients clipped to a norm of 5, at most 200 epochs of 20,000 mixtures, ended after 30
without a better one. Separation: the whole recording at once.

Published on MUSDB18's test songs (museval, median of frames, median of songs), drums, bass, other, vocals: music-v1
6.08, 5.66, 4.37, 6.81 (five seeds: 5.73); music, with changed pitch and tempo in one example of five, 6.02, 6.20, 4.27,
6.43 (three seeds: 5.73). WSJ0-2mix: 15.3 dB SI-SNR improvement in the paper, asteroid 16.2 on WHAM's clean mixtures;
TasNet's LSTM in the later paper 10.8 (one direction) and 13.2.

    python train.py --config=configs/conv_tasnet.py --workdir=runs/conv_tasnet --config.data.root=/data/musdb18hq
    python train.py --config=configs/conv_tasnet.py:speech --workdir=runs/speech --config.data.root=/data/two_speakers

Songs of the second are folders with `speaker1.wav` and `speaker2.wav`.

Variants: `music` (default), `music-x8` (eight blocks a repeat, as demucs' class has it), `music-v1` (batch 64, stems
not scaled, segments side by side); `speech`, `speech-no-skips` (the paper's first version, by asteroid), `enhance`
(speech from noise), `causal` (the paper's: cumulative norms), `torchaudio` (its net, on asteroid's recipe); `damp`
(vocals and background at 16 kHz, egs/dampvsep); `lstm`, `lstm-causal` (TasNet, ICASSP 2018); `report` (the recipe of a
comparative study: mono, bfloat16, learning rate halved on milestones, this system's own loss); `demo` (narrow, on the
built-in songs, minutes on two cores).

What differs from the authors' code:

- Songs are drawn alike whatever their length, and the epoch with the best validation SDR is kept and waited for, not
  that with the lowest loss. SDR here, too, is under the best order of the speakers.
- `damp`: its authors' first recipe added STOI on the vocals; here it is L1 alone.
- TasNet's input is not divided by each segment's energy, and training does not begin with segments of half a second.
"""

from jaxsep.config import Config, choose, defaults, study
from jaxsep.data import presets

# variant -> parameters of the published implementation, encoder and decoder included; None where there is none
VARIANTS = {
    "music": 10_977_872,
    "music-x8": 8_852_032,
    "music-v1": 10_977_872,
    "speech": 5_050_545,
    "speech-no-skips": 3_474_609,
    "enhance": 4_984_497,
    "causal": 5_050_545,
    "torchaudio": 4_984_881,
    "damp": 12_954_945,
    "lstm": None,
    "lstm-causal": None,
    "report": None,
    "demo": None,
}

EXAMPLE = 80_000  # samples, for music


def get_config(variant: str = "music") -> Config:
    """The config of a variant, locked."""
    choose(VARIANTS, variant, "variant of configs/conv_tasnet.py")
    config: Config = defaults()
    config.name, config.variant = "conv_tasnet", variant
    config.paper.title = "Conv-TasNet: surpassing ideal time-frequency magnitude masking for speech separation"
    config.paper.year = 2019
    config.paper.url = "https://arxiv.org/abs/1809.07454"
    config.seed = 42
    config.head = {"name": "mask", "activation": "relu"}
    if variant in ("music", "music-x8", "music-v1", "report", "demo"):
        _music(config, variant)
    else:
        _speech(config, variant)
    return config.lock()


def _music(config: Config, variant: str) -> None:
    """The paper's first version in stereo, and demucs' recipe."""
    config.paper.score = "MUSDB18 test, music-v1: D 6.08 B 5.66 O 4.37 V 6.81; music: D 6.02 B 6.20 O 4.27 V 6.43"
    config.sources = config.data.stems = "drums,bass,other,vocals"
    config.model.update(name="conv_tasnet", bottleneck=256, hidden=512, kernel=3, blocks=10, repeats=4, skip=0)
    config.model.update(norm="gln", input_norm="cln", bias=False, mask_prelu=False, initial="xavier")
    config.front = _bank(filters=256, kernel=20, activation="relu", convention="demucs")
    config.loss.name = "wave_l1"
    presets.take(config, "demucs_v1" if variant == "music-v1" else "demucs_v2")
    config.data.update(segment=EXAMPLE, batch_size=32, standardise=True)
    config.optim.learning_rate = 3e-4
    config.inference.update(segment=4 * EXAMPLE / config.sample_rate, overlap=0.25, last="short")
    config.inference.update(shifts=10, standardise=True)
    if variant == "music-x8":
        config.model.blocks = 8
    elif variant == "music-v1":
        config.data.batch_size = 64
        config.inference.update(segment=10.0, overlap=0.0)
    # Two passes over 86 songs of 236 s on average, a window each second that fits.
    slowest = 0.88 if config.data.augment.tempo else 1.0
    window = (config.data.segment + config.data.shift) / config.sample_rate / slowest
    _epochs(config, 180, round(2 * 86 * (236 - window) / config.data.batch_size))
    if variant == "report":
        _report(config)
    elif variant == "demo":
        _demo(config)


def _speech(config: Config, variant: str) -> None:
    """The paper's second version, and asteroid's recipes."""
    config.paper.score = "WSJ0-2mix: 15.3 dB SI-SNR improvement; asteroid on WHAM, clean: 16.2 dB"
    config.sources = config.data.stems = "speaker1,speaker2"
    config.sample_rate, config.channels = 8000, 1
    config.model.update(name="conv_tasnet", bottleneck=128, hidden=512, kernel=3, blocks=8, repeats=3, skip=128)
    config.model.last_residual = variant != "torchaudio"  # asteroid keeps it, although no output depends on it
    config.front = _bank(filters=512, kernel=16, activation="linear", convention="asteroid")
    config.loss.update(name="si_snr", pit=True)  # asteroid's SI-SDR is that of waves without their mean
    config.data.update(segment=4 * config.sample_rate, batch_size=8)
    config.optim.update(learning_rate=1e-3, clip=5.0)
    config.optim.schedule.update(name="plateau", factor=0.5, patience=6)  # PyTorch's 5 wait for the sixth
    config.patience = 30
    config.inference.segment = 0.0
    _epochs(config, 200, 20_000 // config.data.batch_size)
    if variant == "speech-no-skips":
        config.model.skip = 0
    elif variant == "enhance":
        config.sources, config.data.stems = "speech", "speech,noise"
        config.loss.pit = False
    elif variant == "causal":
        config.model.update(causal=True, norm="cumulative", input_norm="cumulative")
    elif variant == "torchaudio":
        config.front["convention"] = "torchaudio"
        config.head["activation"] = "sigmoid"
    elif variant == "damp":
        _damp(config)
    elif variant in ("lstm", "lstm-causal"):
        _lstm(config, causal=variant == "lstm-causal")


def _bank(filters: int, kernel: int, activation: str, convention: str) -> dict[str, str | int]:
    """Frames that overlap by a half."""
    return {
        "name": "learned",
        "filters": filters,
        "kernel": kernel,
        "stride": kernel // 2,
        "activation": activation,
        "convention": convention,
    }


def _epochs(config: Config, epochs: int, steps: int) -> None:
    """Validation once per epoch."""
    config.steps, config.eval_every = epochs * steps, steps


def _damp(config: Config) -> None:
    """Karaoke of DAMP-VSEP: 20,660 performances, stems remixed."""
    config.paper.score = "DAMP-VSEP test: vocals 15.0 dB SI-SNR improvement, background 14.8 dB SDR improvement"
    config.sources = config.data.stems = "vocals,background"
    config.sample_rate = 16_000
    config.model.update(bottleneck=256, repeats=4, skip=256)
    config.front = _bank(filters=256, kernel=20, activation="linear", convention="asteroid")
    config.loss.update(name="wave_l1", pit=False)
    config.data.update(segment=3 * config.sample_rate, batch_size=12, remix="stem")
    _epochs(config, 200, 20_660 // config.data.batch_size)


def _lstm(config: Config, causal: bool) -> None:
    """TasNet: 500 filters of 5 ms side by side, four layers of 500 units in both directions or 1,000 in one."""
    config.paper.title = "TasNet: time-domain audio separation network for real-time, single-channel speech separation"
    config.paper.year = 2018
    config.paper.url = "https://arxiv.org/abs/1711.00541"
    config.paper.score = "WSJ0-2mix: 13.2 dB SI-SNR improvement, causal 10.8 dB (of the paper on Conv-TasNet)"
    config.model = {"name": "conv_tasnet", "separator": "lstm", "units": 1000 if causal else 500, "layers": 4}
    config.model.update(input_norm="cln", shortcuts=True, causal=causal)
    config.front = _bank(filters=500, kernel=40, activation="gated", convention="asteroid")
    config.front["stride"] = config.front["kernel"]
    config.head["activation"] = "softmax"
    config.optim.learning_rate = 3e-4


def _report(config: Config) -> None:
    """The study: 6 s, its augmentation instead of the authors'."""
    front = config.front.to_dict()
    study(config)
    config.front = front
    config.data.update(segment=6 * config.sample_rate, shift=0, sign=0.0)


def _demo(config: Config) -> None:
    """Built-in songs, mono at 16 kHz: a quarter of the width, two repeats of eight blocks."""
    config.seed = 0
    config.sample_rate, config.channels = 16_000, 1
    config.model.update(bottleneck=64, hidden=128, blocks=8, repeats=2)
    config.front["filters"] = 128
    config.data.update(source="builtin", resample=True, segment=2 * config.sample_rate, batch_size=4)
    config.data.update(remix="stem", shift=0, augment=defaults().data.augment)
    config.inference.update(segment=8.0, shifts=0)
    config.optim.learning_rate = 2e-3
    config.optim.schedule.update(name="warmup_cosine", warmup=30)
    config.steps = 500
    config.log_every, config.save_every, config.eval_every = 20, 125, 250
