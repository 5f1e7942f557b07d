"""The systems: one paper, one file, the net alone. The table below is all there is to choose from."""

from jaxsep.models import (
    blstm,
    conv_tasnet,
    cunet,
    d3net,
    dccrn,
    demucs,
    hdemucs,
    htdemucs,
    lasaft,
    mmdenselstm,
    mmdensenet,
    open_unmix,
    phasen,
    spleeter,
    wave_unet,
)

MODELS = {
    "blstm": blstm.MagnitudeBLSTM,
    "conv_tasnet": conv_tasnet.ConvTasNet,
    "cunet": cunet.CUNet,
    "d3net": d3net.D3Net,
    "dccrn": dccrn.DCCRN,
    "demucs": demucs.Demucs,
    "hdemucs": hdemucs.HDemucs,
    "htdemucs": htdemucs.HTDemucs,
    "lasaft": lasaft.LaSAFTNet,
    "mmdenselstm": mmdenselstm.MMDenseLSTM,
    "mmdensenet": mmdensenet.MMDenseNet,
    "open_unmix": open_unmix.OpenUnmix,
    "phasen": phasen.PHASEN,
    "spleeter": spleeter.UNet,
    "wave_unet": wave_unet.WaveUNet,
}
