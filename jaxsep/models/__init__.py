"""The systems: one paper, one file, the net alone. The table below is all there is to choose from."""

from jaxsep.models import cunet, lasaft, spleeter

MODELS = {
    "cunet": cunet.CUNet,
    "lasaft": lasaft.LaSAFTNet,
    "spleeter": spleeter.UNet,
}
