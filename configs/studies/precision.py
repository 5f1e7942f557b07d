"""What do bfloat16 and float16 cost in quality?

Four systems in float32, in bfloat16 and in float16 (LSTMs in float32, dynamic loss scaling, Adam's epsilon 1e-4), on
the songs, crops and steps of `frontends.py:small`: mono at 11,025 Hz. Spleeter and Open-Unmix on its fixed STFT,
Conv-TasNet on its own filterbank with frames of 64 samples, Demucs with 16 channels and four levels.

The loss of all is L2 between complex spectra of the waves. L1 between waves has gradients so small that Adam's epsilon
of float16 is most of its denominator: after 240 steps Spleeter stood at 3.0 dB instead of 4.7.

    jaxsep study run configs/studies/precision.py --workdir runs/precision
    jaxsep study table runs/precision

Two seeds; about an hour on two cores: docs/studies/precision.md.
"""

from jaxsep import separator
from jaxsep.config import Config, defaults, load_config
from jaxsep.studies.definition import Cell, Study, changed, load_study

LEVELS = ("float32", "bfloat16", "float16")
LOSS = {**defaults().loss.to_dict(), "name": "complex_l2", "domain": "stft", "stft": {"frame": 1024, "hop": 256}}


def get_study() -> Study:
    """Systems by precisions."""
    small = {
        tuple(cell.factors.values()): cell.config for cell in load_study("configs/studies/frontends.py:small").cells
    }
    filterbank = small["conv_tasnet", "filterbank"]
    systems = {
        "spleeter": small["spleeter", "fixed"],
        "open_unmix": small["open_unmix", "fixed"],
        "conv_tasnet": _standardised(changed(filterbank, front__kernel=64, front__stride=32, front__filters=256)),
        "demucs": _demucs(small["spleeter", "fixed"]),
    }
    cells = [
        Cell({"system": system, "precision": level}, changed(config, loss=LOSS, precision=level))
        for system, config in systems.items()
        for level in LEVELS
    ]
    return Study("Precision", "precision", cells, seeds=(0, 1))


def _demucs(small: Config) -> Config:
    """Its small variant with the data and optimiser of the others."""
    config = changed(load_config("configs/demucs.py:demo"), model__channels=16, sample_rate=small.sample_rate)
    for block in ("data", "optim"):
        config = changed(config, **{block: small[block].to_dict()})
    for key in ("steps", "log_every", "save_every", "eval_every"):
        config = changed(config, **{key: small[key]})
    segment, _ = separator.build(config).net.lengths(small.data.segment)  # which the net yields without padding
    return _standardised(changed(config, data__segment=segment))


def _standardised(config: Config) -> Config:
    """Songs by mean and deviation of their mixture, as the recipes of both nets on waves have it."""
    return changed(config, data__standardise=True, inference__standardise=True)
