"""The systems: one paper, one file, the net alone. The table below is all there is to choose from."""

from jaxsep.models import spleeter

MODELS = {
    "spleeter": spleeter.UNet,
}
