"""DCCRN (Hu et al.: DCCRN: Deep complex convolution recurrent network for phase-aware speech enhancement, 2020).

The paper enhances speech at 16 kHz and was first in the real-time track of the DNS challenge 2020. On WSJ0 with noise
its mean PESQ is 3.433 (DCCRN-E) and 3.498 (DCCRN-CL); asteroid's DCCRNet has SI-SDR 13.3 dB on Libri1Mix (16 kHz,
train-360, 9.9 dB above the noisy speech). There is no score on music. Published: windows of 25 ms every 6.25 ms, FFT
512, SI-SNR, Adam at 1e-3, halved when the validation gets worse. What the paper leaves open is as in asteroid's recipe
(egs/librimix/DCCRNet): crops of 4 s, batch 12, 200 epochs of the 50,800 mixtures of Libri1Mix, a stop after 30 without
a better one. Data: one folder per utterance with speech.wav and noise.wav, of 4 s or more, at any rate.

    python train.py --config=configs/dccrn.py --workdir=runs/dccrn --config.data.root=/data/dns
    python train.py --config=configs/dccrn.py:music --workdir=runs/dccrn --config.data.root=/data/musdb18hq

Variants for speech: `cl` (default; DCCRN-CL), `cl-whitened` (with the complex batch norm that the code offers), `e`,
`c`, `r` (the masks, with a real LSTM, of the code's default channels), `e-paper` (of the channels that the paper
prints), `asteroid` (its layout and STFT; with weight decay 1e-5 and gradients clipped at 5).

Variants for music, our form: 44.1 kHz stereo, two complex channels in, all four sources at once, 4 x 2 masks out. How
to take the net from 16 to 44.1 kHz is open:

| variant | reading | STFT | bins of a kernel |
|---|---|---|---|
| `music` | windows, hops and bins as long and as wide as the paper's | 1100/275, FFT 1408 | 5 |
| `music-rounded` | the same, all times 3 | 1200/300, FFT 1536 | 5 |
| `music-kernel13` | kernels, too, times 44.1 / 16 | 1100/275, FFT 1408 | 13 |
| `music-2048`, `music-4096` | the STFT of music systems | 2048/512, 4096/1024 | 5 |

They are trained with the L1 loss on waves, as music systems are: SI-SNR leaves the scale of an estimate open, which no
listener and no score of music does.

Others: `report` (the recipe of a comparative study, `music` on mono), `demo` (narrow, mono at 8,192 Hz, on the
built-in songs, minutes on two cores).

Our deviations: the last crop of a hop is padded where the code drops it, and waves are not clamped to [-1, 1] before
the loss as in the code's `forward` (`--config.front.clamp=True`): beyond there is no gradient, and SI-SNR does not keep
the scale from going there.
"""

from jaxsep.config import Config, choose, defaults, study

# variant -> parameters of the public code with two biases per LSTM gate; None where there is none. For music, of the
# authors' module with these sizes and the channels of more inputs and outputs.
VARIANTS = {
    "cl": 3_671_053,
    "cl-whitened": 3_671_917,
    "e": 3_742_349,
    "c": 3_742_349,
    "r": 3_742_349,
    "e-paper": 3_981_581,
    "asteroid": 3_669_336,
    "music": 4_824_539,
    "music-rounded": 4_988_635,
    "music-kernel13": 9_011_675,
    "music-2048": 5_645_019,
    "music-4096": 8_270_555,
    "report": None,
    "demo": None,
}

MUSIC = {  # variant -> frame, hop, fft
    "music": (1100, 275, 1408),
    "music-rounded": (1200, 300, 1536),
    "music-kernel13": (1100, 275, 1408),
    "music-2048": (2048, 512, 2048),
    "music-4096": (4096, 1024, 4096),
    "report": (1100, 275, 1408),
}
BATCH = 12
EPOCH = 50_800 // BATCH  # steps


def get_config(variant: str = "cl") -> Config:
    """The config of a variant, locked."""
    choose(VARIANTS, variant, "variant of configs/dccrn.py")
    config: Config = defaults()
    config.name, config.variant = "dccrn", variant
    config.paper.title = "DCCRN: Deep complex convolution recurrent network for phase-aware speech enhancement"
    config.paper.year = 2020
    config.paper.url = "https://arxiv.org/abs/2008.00264"
    config.paper.score = "WSJ0 with noise, mean PESQ: DCCRN-E 3.433, DCCRN-CL 3.498; none on music"
    config.model.update(name="dccrn", widths=(32, 64, 128, 256, 256, 256), kernel=5, units=256, layers=2)
    config.model.update(lstm="complex", norm="parts", layout="official")
    config.front = {"name": "conv_stft", "form": "dccrn", "window": "hann", "clamp": False}
    config.head = {"name": "complex_mask", "mode": "E"}
    _stft(config, 400, 100, 512)
    config.data.batch_size = BATCH
    config.optim.learning_rate = 1e-3
    config.optim.schedule.update(name="plateau", factor=0.5, patience=5)
    if variant in MUSIC:
        _music(config, variant)
    elif variant == "demo":
        _demo(config)
    else:
        _speech(config, variant)
    return config.lock()


def _stft(config: Config, frame: int, hop: int, fft: int) -> None:
    config.front.update(frame=frame, hop=hop, fft=fft, bins=fft // 2 + 1)


def _speech(config: Config, variant: str) -> None:
    """16 kHz mono, the clean speech in its sum with noise."""
    config.sources, config.data.stems = "speech", "speech,noise"
    config.sample_rate, config.channels = 16_000, 1
    config.data.resample = True
    config.data.segment = 4 * config.sample_rate
    config.loss.name = "si_sdr"  # the code's SI-SNR: without removing means
    config.steps, config.patience = 200 * EPOCH, 30
    config.eval_every = config.save_every = EPOCH
    config.inference.segment = 60.0  # utterances as a whole
    if variant == "cl-whitened":
        config.model.norm = "complex"
    elif variant == "asteroid":
        config.model.layout = "asteroid"
        config.front.update(form="asteroid", window="sqrt_hann")
        config.loss.name = "si_snr"
        config.optim.weight_decay, config.optim.clip = 1e-5, 5.0
        config.paper.score = "Libri1Mix (16 kHz): SI-SDR 13.3 dB, 9.9 dB above the noisy speech; none on music"
    elif variant != "cl":
        config.model.lstm = "real"
        config.model.widths = (32, 64, 128, 128, 256, 256) if variant == "e-paper" else (16, 32, 64, 128, 256, 256)
        config.head.mode = variant[0].upper()


def _music(config: Config, variant: str) -> None:
    """44.1 kHz stereo, four sources."""
    _stft(config, *MUSIC[variant])
    if variant == "music-kernel13":
        config.model.kernel = 13
    config.loss.name = "wave_l1"
    config.data.segment = 4 * config.sample_rate
    config.data.remix, config.data.gain, config.data.swap = "stem", (0.25, 1.25), 0.5
    config.optim.clip = 5.0
    config.steps, config.eval_every, config.patience = 200 * 1000, 1000, 30
    if variant == "report":
        front = config.front.copy_and_resolve_references()
        study(config)
        config.front = front
        config.data.segment = 6 * config.sample_rate


def _demo(config: Config) -> None:
    """Built-in songs, mono at 8,192 Hz, longer windows, narrow and four levels instead of six: minutes on two cores."""
    config.sample_rate, config.channels, config.data.resample = 8192, 1, True
    _stft(config, 480, 120, 512)
    config.model.update(widths=(16, 24, 32, 32), units=64)
    config.loss.name = "wave_l1"
    config.data.source = "builtin"
    config.data.batch_size = 4
    config.data.segment = 64 * config.front.hop
    config.data.remix, config.data.gain, config.data.swap = "stem", (0.5, 1.5), 0.5
    config.optim.learning_rate = 3e-3
    config.optim.schedule.update(name="warmup_cosine", warmup=30)
    config.steps = 700
    config.log_every, config.save_every, config.eval_every = 20, 350, 350
