"""The systems: one paper, one file, the net alone. The table below is all there is to choose from."""

from jaxsep.models import cunet, lasaft, phasen, spleeter

MODELS = {
    "cunet": cunet.CUNet,
    "lasaft": lasaft.LaSAFTNet,
    "phasen": phasen.PHASEN,
    "spleeter": spleeter.UNet,
}
