"""Configs: one Python file per paper gives values, the linen dataclasses are the schema.

A config file holds `get_config(variant) -> ConfigDict`, `VARIANTS` (name -> parameters of the published
implementation, or None) and the paper in its docstring; `defaults` gives every key its value, so that a
misspelt key is refused with a suggestion. Nothing here imports TensorFlow, and nothing is looked up by a
string that a user wrote, except in the tables of models, front ends, heads, post-filters and losses.
"""

import dataclasses
import difflib
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxsep import storage
from jaxsep.errors import JaxsepError

Config = Any  # an ml_collections ConfigDict; type checkers cannot see its keys


def defaults() -> Config:
    """Every key with the value it has unless a paper says otherwise.

    Durations are in steps of the optimiser, `data.segment` in samples at `sample_rate`, `inference.segment` in
    seconds (0 = the whole song at once), `overlap` is a fraction of the segment.
    """
    return ConfigDict(
        {
            "name": "",
            "variant": "",
            "paper": {"title": "", "year": 0, "url": "", "score": ""},
            "seed": 0,
            "deterministic": False,  # on GPUs as well: jaxsep/determinism.py
            "init": "",  # run folder whose best weights training starts from; "" = fresh ones
            "initial": {  # of fresh weights: jaxsep/initialisation.py
                "kernels": "paper",  # as the system's public code has them, or alike for all: kaiming | xavier
                "rescale": 0.0,  # Demucs' reference a for their deviation; 0 = as they are
            },
            "sources": "vocals,drums,bass,other",
            "sample_rate": 44100,
            "channels": 2,
            "precision": "float32",  # or bfloat16, float16, "float16, net/conv1=f32": jaxsep/precision.py
            # over devices: global, fsdp (a share of the state on each as well) or device (each has a batch of its own)
            "parallel": "global",
            "remat": "",  # layers whose outputs are kept for the backward pass; "" = of all: jaxsep/remat.py
            "model": {"name": ""},
            "per_source": False,  # one net per source
            "model_by_source": {},  # source -> fields of `model` that are its own, under per_source
            "bands": {  # one net of `model` for each band of bins: jaxsep/models/band_split.py
                "splits": (),  # bins where one band ends and the next begins; () = one net for all bins
                "by_band": {},  # band0, band1, ..., full -> fields of `model` that are its own
                "full": False,  # a net for all bins beside those of the bands
                "merge": 0,  # channels of the net that merges their outputs; 0 = they are added
                "multiple": 1,  # of bins that `model` takes: bands get so many by zeros above them
            },
            "blend": 1,  # nets of the kind, trained apart, whose outputs are averaged: `jaxsep models blend`
            "blend_weights": (),  # of each of them, one for each source; () = all alike
            "front": {
                "name": "stft",
                "frame": 4096,
                "hop": 1024,
                "window": "hann",
                "padding": "left",
                "bins": 2049,
            },
            "head": {"name": "mask", "activation": "sigmoid"},
            "block": 0,
            "context": False,  # a net on waves sees what surrounds a segment: jaxsep/separator.py
            "loss": {
                "name": "l1",
                "mel_bins": 0,  # spectral losses: compare this many mel bands instead of bins; 0 = bins
                "log_bins": 0,  # or bands at equal musical intervals
                "beta": 1.0,  # smooth_l1: where the parabola becomes a line
                "pit": False,  # losses on waves: under each example's best order of the estimates
                # what spectral losses compare: the front end's "latents", an "stft" of the waves that is never trained,
                # or "auto": the latents where the front end is fixed
                "domain": "auto",
                "stft": {"frame": 0, "hop": 0},  # 0 = as the front end starts; hop 0 beside a frame = a quarter of it
            },
            "data": {
                "source": "folder",  # builtin | folder | musdb18 | built | slakh2100 | moisesdb | medleydb
                "root": "",
                "stems": "vocals,drums,bass,other",
                # "instrument=stem", beside the table of the source; "instrument=" leaves it out: jaxsep/data/layouts.py
                "instruments": (),
                "missing": "refuse",  # a song that lacks a stem: refuse | silence
                "segment": 6 * 44100,
                "batch_size": 4,
                # none: one song at one place | stem: each stem from a song and place of its own |
                # group: stems are exchanged among every `group` samples in a row (Demucs)
                "remix": "none",
                "group": 4,
                "gain": (1.0, 1.0),
                "swap": 0.0,
                "sign": 0.0,
                "conditions": "",  # how a conditioned system's targets are drawn: jaxsep/data/conditions.py
                "shift": 0,  # each stem begins up to so many samples later, by its own draw (Demucs)
                "pad": 0,  # samples of silence that segments may reach into beyond the ends of a song (Wave-U-Net)
                "standardise": False,  # songs by mean and deviation of their mono mix, as inference.standardise does
                "mixture": "sum",  # sum of the augmented stems | original: the song's own mixture
                "resample": False,
                # weak examples, with music in which `jaxsep data mine` found a source silent: jaxsep/data/unlabeled.py
                "unlabeled": {
                    "root": "",  # the mined folder; "" = none
                    "odds": 0.25,  # that an example is weak
                    "weight": 1.0,  # lambda, of the loss on the sum of the sources that are not known
                },
                # beyond remix, gain, swap, sign and shift; the papers' values are in jaxsep/data/presets.py
                "augment": {
                    "gain_db": (0.0, 0.0),  # of each stem, in decibels
                    "loudness_db": (0.0, 0.0),  # of all stems alike
                    "odds": 1.0,  # that pitch and tempo are changed as the next three keys say
                    "pitch": (),  # a law and its two values: jaxsep/data/changes.py; () = unchanged
                    "tempo": (),
                    "repitch": (),  # both alike, by resampling
                    "filter_odds": 0.0,  # that a Gaussian of this middle and width, in Hz, is taken out of the spectrum
                    "filter_middle": (0.0, 4410.0),
                    "filter_width": (500.0, 1000.0),
                    "together": True,  # pitch, tempo and filter of a song's stems are one draw
                    "blend": 0.0,  # odds that a stem is the sum of two clips of its kind
                    "hook": "",  # package.module:function, the one place where a config names code: docs/data.md
                },
                "also": {},  # further data sets to train on, by names of one's own: `further`
                "songs": {"train": 24, "valid": 4, "test": 6, "seconds": 30.0, "seed": 0},  # builtin only
            },
            "optim": {
                "name": "adam",
                "learning_rate": 1e-4,
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "clip": 0.0,  # largest global norm of the gradient; 0 = off
                "accumulate": 1,  # micro-batches that one step averages
                "ema": (),  # decays of averaged weights, of which the best are kept; 0 = the weights themselves
                "parts": "",  # rates of parts, relative: "net/*/conv*=0, net/vocals=0.1"; 0 = frozen: jaxsep/parts.py
                "front": {  # of a front end that is trained
                    "rate": 1.0,  # its learning rate, relative to that of the net
                    "first": 0,  # step after which it moves; before, the net gets used to it
                    "last": 0,  # step after which it stays; 0 = none
                    "reconstruction": 0.0,  # weight in the loss of the relative error of decoding the encoded mixture
                },
                "schedule": {
                    "name": "constant",  # constant | milestones | plateau | warmup_cosine
                    "every": 0,  # milestones: multiply by `factor` each time so many steps have passed
                    "milestones": (),  # or at these steps
                    "factor": 0.5,
                    "patience": 10,  # plateau: evaluations without a better one
                    "cooldown": 0,  # plateau: evaluations after a multiplication that do not count
                    "warmup": 0,
                },
            },
            "steps": 100_000,
            "log_every": 50,
            "eval_every": 5_000,
            "save_every": 1_000,
            "on_full_disk": "stop",  # a checkpoint that cannot be written: stop | go_on, until the last one
            "patience": 0,  # evaluations without a better validation SDR before the run stops; 0 = never
            "tensorboard": False,
            "inference": {
                "segment": 12.0,
                "overlap": 0.25,
                "batch_size": 1,
                "shifts": 0,
                "standardise": False,
                "last": "moved",  # the last segment: moved back to end with the song | short (Demucs)
                "block_overlap": 0.0,  # fraction that a block of frames shares with the next one
                "swap_channels": False,  # average with the net's output for exchanged channels
                "post": {"name": ""},
            },
        }
    )


FURTHER = {
    "source": "folder",  # as data.source, or singles: jaxsep/data/singles.py
    "root": "",
    "odds": 0.0,  # that an example is of this data set
    "instruments": (),
    "missing": "refuse",
    # singles only
    "proportions": (),  # how often each stem of data.stems is heard, relative to the others; () = always
    "match": True,  # stems are as loud as those of a random song of the first data set
}


def add_further(config: Config, name: str, **values: Any) -> None:
    """Adds keys to a block of `data.also`: `add_further(config, "slakh", source="slakh2100", odds=0.3)`."""
    with config.unlocked():
        given = config.data.also[name].to_dict() if name in config.data.also else {}
        config.data.also[name] = ConfigDict(FURTHER | given | values)


def name_further(config: Config, words: Sequence[str]) -> None:
    """Adds the blocks of `data.also` that a command line names, so that their keys can be given there."""
    for name in re.findall(r"^--?config\.data\.also\.(\w+)\.", "\n".join(words), re.MULTILINE):
        add_further(config, name)


def further(config: Config) -> dict[str, Config]:
    """The blocks of `data.also` by name, in the order of their names, each with every key.

    Raises:
        JaxsepError: a key that there is not, or odds that are none.
    """
    blocks = {}
    for name, given in sorted(config.data.also.items()):
        for key in given:
            choose(FURTHER, key, f"data.also.{name}: the key")
        blocks[name] = ConfigDict(FURTHER | given.to_dict())
        if not 0 < blocks[name].odds <= 1:
            raise JaxsepError(f"data.also.{name}.odds={blocks[name].odds}: expected odds above 0 to 1")
    if (total := sum(block.odds for block in blocks.values())) > 1 + 1e-9:
        raise JaxsepError(f"data.also: the odds are {total:g} together, expected 1 at most")
    return blocks


def study(config: Config, bins: int = 1536) -> None:
    """The recipe under which a study compared systems: what every `report` variant has in common.

    Mono at 44.1 kHz, STFT 4096/1024 without the content above 16,537 Hz, stems remixed with gains and swapped channels,
    batch 2 accumulated twice, bfloat16, Adam with eps 1e-4, the rate halved every 50 epochs of 1,000 steps.

    Args:
        config: gets the values; what a system brings of its own (net, head, loss, length of the input) stays.
        bins: of the 2,049.
    """
    config.sample_rate, config.channels, config.precision = 44100, 1, "bfloat16"
    config.front.update(frame=4096, hop=1024, bins=bins)
    config.data.update(remix="stem", gain=(0.25, 1.25), swap=0.5, batch_size=4, resample=False)
    config.data.augment = defaults().data.augment
    config.optim.update(name="adam", learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-4, weight_decay=0.0, accumulate=2)
    config.optim.schedule.update(defaults().optim.schedule)
    config.optim.schedule.update(name="milestones", every=50 * 1000)
    config.steps, config.eval_every, config.save_every, config.patience = 200_000, 5_000, 1_000, 0


def configs_folder() -> Path:
    """The folder of the config files: beside the package in a checkout, inside it when installed as a wheel."""
    package = Path(__file__).parent
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def load_module(path: str | Path):
    """The module of a config file.

    Raises:
        JaxsepError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        fallback = configs_folder() / path.name
        if not fallback.is_file():
            known = ", ".join(sorted(p.stem for p in configs_folder().glob("*.py") if p.stem != "common"))
            raise JaxsepError(f"{path}: no such config file; the suite has {known} in {configs_folder()}")
        path = fallback
    spec = importlib.util.spec_from_file_location(f"jaxsep_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_config(spec: str | Path) -> Config:
    """The config of `path.py` or `path.py:variant`, or of the `config.json` of a run folder.

    Raises:
        JaxsepError: unknown file or variant, or a damaged one.
    """
    if Path(spec).suffix == ".json":
        return _read_json(Path(spec))
    path, _, variant = str(spec).partition(":")
    module = load_module(path)
    return module.get_config(variant) if variant else module.get_config()


def choose(table: Mapping[str, Any], name: str, what: str) -> Any:
    """`table[name]`, or an error that names `what` and the nearest entry.

    Raises:
        JaxsepError: `name` is not in the table.
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(str(name), table, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise JaxsepError(f"{what}={name!r} is unknown, expected one of {', '.join(table)}{hint}")


def construct(table: Mapping[str, Any], spec: Mapping[str, Any] | ConfigDict, what: str, **extra: Any) -> Any:
    """Builds `table[spec["name"]]` from the other keys of `spec`; lists become tuples.

    Args:
        table: name -> class (a dataclass or a linen module).
        spec: config values; `name` chooses the class, the rest are its fields.
        what: the config key, for messages.
        extra: fields that do not come from the config.

    Raises:
        JaxsepError: an unknown name, or a key that is not a field of the class.
    """
    values = {key: _frozen(value) for key, value in spec.items() if key != "name"}
    cls = choose(table, str(spec["name"]), f"{what}.name")
    fields = [f.name for f in dataclasses.fields(cls) if f.init and f.name not in ("parent", "name")]
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise JaxsepError(f"{what}.{key} is not a field of {cls.__name__} ({', '.join(fields)}){hint}")
    return cls(**values, **extra)


def _frozen(value: Any) -> Any:
    """Lists as tuples and ConfigDicts as dicts, so that modules stay hashable."""
    if isinstance(value, ConfigDict | Mapping):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def parse_sources(text: str) -> dict[str, tuple[str, ...]]:
    """Sources and the stems that each is the sum of.

    `"vocals,accompaniment=drums+bass+other"` gives
    `{"vocals": ("vocals",), "accompaniment": ("drums", "bass", "other")}`.

    Raises:
        JaxsepError: an empty or repeated name.
    """
    sources: dict[str, tuple[str, ...]] = {}
    for part in text.split(","):
        name, _, stems = (word.strip() for word in part.partition("="))
        members = tuple(stem.strip() for stem in (stems or name).split("+"))
        if not name or not all(members):
            raise JaxsepError(f"sources={text!r}: an empty name; write e.g. vocals,accompaniment=drums+bass+other")
        if name in sources or len(set(members)) < len(members):
            raise JaxsepError(f"sources={text!r}: {name!r} or one of its stems is named twice")
        sources[name] = members
    return sources


def parse_stems(text: str) -> tuple[str, ...]:
    """The stems that make up a song: `"vocals,drums,bass,other"`, each once.

    Raises:
        JaxsepError: an empty or repeated name.
    """
    return tuple(parse_sources(text))


def parse_instruments(pairs: Sequence[str], stems: Sequence[str], what: str = "data.instruments") -> dict[str, str]:
    """Instrument -> stem, "" for none: `("keys=other", "click track=")`.

    Args:
        pairs: of the config.
        stems: that there are.
        what: the config key, for messages.

    Raises:
        JaxsepError: not of that form, or a stem that there is not.
    """
    table = {}
    for pair in pairs:
        instrument, equals, stem = (word.strip() for word in str(pair).rpartition("="))
        if not instrument or not equals:
            raise JaxsepError(f"{what}: {pair!r}; expected 'instrument=stem', or 'instrument=' to leave it out")
        table[instrument] = stem and choose({name: name for name in stems}, stem, f"{what}: the stem of {instrument!r}")
    return table


def check(config: Config) -> None:
    """What no single part of the config can see.

    Raises:
        JaxsepError: a source made of a stem that the data does not have, an address that nothing reads, or durations
            and sizes below 1.
    """
    stems = parse_stems(config.data.stems)
    for source, members in parse_sources(config.sources).items():
        for stem in members:
            if stem not in stems:
                raise JaxsepError(
                    f"sources: {source!r} needs the stem {stem!r}, which is not in data.stems={config.data.stems!r}"
                )
    for source in config.model_by_source:
        if not config.per_source or source not in (*stems, *parse_sources(config.sources)):
            raise JaxsepError(f"model_by_source: {source!r} is neither a source nor a stem of a per_source system")
    bands = config.bands
    if not bands.splits and (bands.full or bands.merge or bands.by_band):
        raise JaxsepError("bands: full, merge and by_band need bands.splits, the bins where bands end")
    for name in bands.by_band:
        if name not in {f"band{i}" for i in range(len(bands.splits) + 1)} | ({"full"} if bands.full else set()):
            raise JaxsepError(f"bands.by_band: {name!r} is no net of bands.splits={tuple(bands.splits)}")
    if bands.merge < 0 or bands.multiple < 1:
        raise JaxsepError(f"bands: merge={bands.merge}, multiple={bands.multiple}; expected 0 or more, 1 or more")
    rows, count = config.blend_weights, len(parse_sources(config.sources))
    if rows and (config.per_source or len(rows) != config.blend or any(len(row) != count for row in rows)):
        raise JaxsepError(
            f"blend_weights: expected {config.blend} nets' weights for {count} sources that are one net's"
        )
    if rows and any(min(column) < 0 or sum(column) <= 0 for column in zip(*rows, strict=True)):
        raise JaxsepError("blend_weights: expected 0 or more, and above 0 for one net of every source")
    if config.data.standardise and not config.inference.standardise:
        raise JaxsepError("data.standardise=True needs inference.standardise=True: songs are separated as trained on")
    roots = {f"data.also.{name}.root": block.root for name, block in further(config).items()}
    for key, root in (roots | {"data.root": config.data.root, "init": config.init}).items():
        storage.check(root, key)
    on_disk = {"data.unlabeled.root": config.data.unlabeled.root}  # its index names songs that lie elsewhere
    if config.data.source == "builtin":  # is written
        on_disk["data.root"] = config.data.root
    for key, root in on_disk.items():
        if storage.is_address(root):
            raise JaxsepError(f"{key}={root}: expected a folder on a disk")
    for key in ("steps", "blend", "log_every", "eval_every", "save_every", "sample_rate", "channels"):
        if config[key] < 1:
            raise JaxsepError(f"{key}={config[key]}: expected 1 or more")


def to_json(config: Config) -> str:
    """The config as indented JSON with sorted keys."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> Config:
    """The locked config that `to_json` wrote."""
    return ConfigDict(json.loads(text)).lock()


def run_config(workdir: str | Path) -> Config:
    """The frozen config of a run folder; keys that came after the run have the values that leave it as it was.

    Raises:
        JaxsepError: the folder is not a run, or its config cannot be read.
    """
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise JaxsepError(f"{workdir}: not a run folder (no config.json); give the --workdir of a training")
    return _read_json(path)


def _read_json(path: Path) -> Config:
    try:
        values = _completed(json.loads(path.read_text()), defaults().to_dict())
    except OSError as error:
        raise JaxsepError(f"{path}: cannot be read ({error.strerror}); expected the config.json of a run") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise JaxsepError(f"{path}: damaged ({error}); restore it from the config that made the run") from None
    if not isinstance(values["optim"]["ema"], list | tuple):  # runs from when there was one decay, or 0 for none
        values["optim"]["ema"] = [decay for decay in [values["optim"]["ema"]] if decay]
    return ConfigDict(_frozen(values)).lock()


def _completed(config: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the default of every key that it lacks; what names a class has the fields of that class only."""
    for key, value in values.items():
        if key not in config:
            config[key] = value
        elif key in ("augment", "data", "inference", "loss", "optim"):
            _completed(config[key], value)
    return config
