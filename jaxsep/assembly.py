"""What a config asks to be trained, by what and for what."""

from typing import Any

from jaxsep import initialisation, losses, optim, precision, separator
from jaxsep.config import Config
from jaxsep.losses import Loss
from jaxsep.optim import Optimiser


def assemble(config: Config) -> tuple[Any, Loss, Optimiser]:
    """The separator, the loss and the optimiser of a config.

    Raises:
        JaxsepError: a value that is unknown or does not fit, or a pattern of layers that matches none.
    """
    model = separator.build(config)
    precision.check_layers(model, config)
    initialisation.check(config)
    return model, losses.from_config(config), optim.build(config.optim, config.steps, model.policy.float16)
