"""Front ends: between waves [*b t c] and the latents that a net works on. The table below is all there is."""

from jaxsep.frontends.convstft import ConvStft
from jaxsep.frontends.filterbanks import LearnedBank
from jaxsep.frontends.identity import Identity
from jaxsep.frontends.stft import Stft

FRONTS = {"stft": Stft, "conv_stft": ConvStft, "identity": Identity, "learned": LearnedBank}
