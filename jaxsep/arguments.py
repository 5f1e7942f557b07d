"""The command line of `train.py`: a config with the values that are given beside it, and how it is to be run."""

import re
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from jaxsep import config as configs
from jaxsep.data.presets import take
from jaxsep.errors import JaxsepError

OPTIONS = (
    "[--overfit | --find-rate] [--augment=PAPER] [--on-bad-file=skip] [--profile=STEP,N] [--coordinator=HOST:PORT ...] "
    "[--config.KEY=VALUE ...]"
)
USAGE = f"train.py --config=FILE.py[:VARIANT] --workdir=FOLDER {OPTIONS}"


def parse(argv: Sequence[str]) -> tuple[configs.Config, str, bool, str]:
    """The config and the run folder of a command line, whether files that cannot be read are skipped, traced steps.

    Raises:
        JaxsepError: a flag, a file, a key or a value that does not exist or does not fit.
    """
    specs = [word for word in argv[1:] if word.startswith("--config=")]
    if not specs:
        raise JaxsepError(f"--config is missing; expected {USAGE}")
    config = configs.load_config(specs[-1].partition("=")[2])
    presets = [word for word in argv[1:] if word.startswith("--augment=")]
    if presets:
        with config.unlocked():
            take(config, presets[-1].partition("=")[2])
    words = [word for word in argv if word not in (*specs, *presets)]
    configs.name_further(config, words)
    if any(word.lstrip("-").startswith("config.front.") for word in words):
        from jaxsep.frontends import name_fields

        name_fields(config, words)
    values = flags.FlagValues()
    workdir = flags.DEFINE_string("workdir", None, "run folder", flag_values=values)
    bad = flags.DEFINE_enum("on-bad-file", "stop", ["stop", "skip"], "unreadable files", flag_values=values)
    profile = flags.DEFINE_string("profile", "", "steps to trace", flag_values=values)
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=words)
        rest = values(words)[1:]
    except (AttributeError, KeyError) as error:
        key, hint = re.search(r"\w+", str(error)), re.search(r"Did you mean.*\?", str(error))
        said = [f"the config has no key {match.group()!r}" for match in (key,) if match] + [
            hint.group() if hint else ""
        ]
        raise JaxsepError(". ".join(filter(None, said))) from None
    except (flags.Error, TypeError, ValueError) as error:
        raise JaxsepError(" ".join(str(error).split())) from None
    if rest or not workdir.value:
        raise JaxsepError((f"{rest[0]!r} is no flag" if rest else "--workdir is missing") + f"; expected {USAGE}")
    return config, workdir.value, bad.value == "skip", profile.value
