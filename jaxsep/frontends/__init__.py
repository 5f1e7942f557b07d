"""Front ends: between waves [*b t c] and the latents that a net works on. The table below is all there is."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxsep.config import Config, choose, construct, defaults
from jaxsep.errors import JaxsepError
from jaxsep.frontends.adaptivestft import AdaptiveStft
from jaxsep.frontends.analyticbanks import AnalyticBank, SincBank
from jaxsep.frontends.convstft import ConvStft
from jaxsep.frontends.filterbanks import LearnedBank
from jaxsep.frontends.identity import Identity
from jaxsep.frontends.learnablestft import LearnableStft
from jaxsep.frontends.stft import Stft

FRONTS = {
    "stft": Stft,
    "conv_stft": ConvStft,
    "learnable_stft": LearnableStft,
    "adaptive_stft": AdaptiveStft,
    "analytic": AnalyticBank,
    "sinc": SincBank,
    "identity": Identity,
    "learned": LearnedBank,
}

PLACES = 65  # of a window, to draw it


def build(config: Config) -> Any:
    """The front end of a config.

    Keys of `config.front` that the chosen front end does not have are passed over where another one has them and they
    are at its default: `front.name` alone changes the front end.

    Raises:
        JaxsepError: an unknown name or field.
    """
    fields = _fields(choose(FRONTS, config.front.name, "front.name"))
    others = [_fields(front) for front in FRONTS.values()]

    def passed_over(key: str, value: Any) -> bool:
        return key not in fields and any(key in other and other[key].default == value for other in others)

    spec = {key: value for key, value in config.front.items() if not passed_over(key, value)}
    given = {"channels": config.channels, "rate": config.sample_rate}
    front = construct(FRONTS, spec, "front", **{key: value for key, value in given.items() if key in fields})
    usual = defaults().optim.front.to_dict()
    if front.fixed and (asked := [key for key, value in config.optim.front.items() if value != usual[key]]):
        raise JaxsepError(
            f"optim.front.{asked[0]}: front.name={config.front.name!r} has no parameters; leave it at its default"
        )
    return front


def continues(front: Any, other: Any) -> bool:
    """Whether a front end, as it starts or with the parameters of the other one, does what the other one did."""
    starts_as_stft = isinstance(front, LearnableStft | AdaptiveStft)
    return type(front) is type(other) or (starts_as_stft and front.untrained() == other)


def numbers(front: Any, variables: Mapping[str, Any]) -> dict[str, float]:
    """What a separator's front end has become, where numbers say it: the window length and hop of `adaptive_stft`."""
    if not isinstance(front, AdaptiveStft):
        return {}
    length, hop = np.asarray(front.apply({"params": variables["params"]["front"]}, method="sizes"))
    return {"front/length": float(length), "front/hop": float(hop)}


def shapes(front: Any, variables: Mapping[str, Any]) -> dict[str, list[float]]:
    """The window of a separator's front end at 65 places from its first sample to its last, where it is trained."""
    if not isinstance(front, LearnableStft | AdaptiveStft) or front.trained in ("kernels", "hop"):
        return {}
    taps = np.asarray(front.apply({"params": variables["params"]["front"]}, method="analysis_window"))
    places = np.linspace(0, len(taps) - 1, PLACES)
    return {"front/window": np.interp(places, np.arange(len(taps)), taps).round(4).tolist()}


def name_fields(config: Config, words: Sequence[str]) -> None:
    """Adds what a command line says of front ends and a config does not, so that it can be said there.

    A field that the chosen front end does not have is refused when it is built.
    """
    named = set(re.findall(r"^--?config\.front\.(\w+)", "\n".join(words), re.MULTILINE)) - set(config.front)
    with config.unlocked():
        for front in FRONTS.values():
            config.front.update({key: field.default for key, field in _fields(front).items() if key in named})


def _fields(front: Any) -> dict[str, dataclasses.Field]:
    """What a config may say of a front end."""
    return {field.name: field for field in dataclasses.fields(front) if field.name not in ("parent", "name")}
