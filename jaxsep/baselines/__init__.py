"""What a model must beat, and what no mask can: trivial answers, oracles and classical methods, for judging a score.

All take a mixture [t c]. Those that take the stems it is made of [s t c] as well give estimates [s t c] in float64, and
an accompaniment's estimate is the sum of its stems' estimates. `catalogue` has them all by name.
For comparison: an estimate of pure silence scores an SDR of 0 dB.
"""

from jaxsep.baselines.equaliser import equalise, learn_equaliser
from jaxsep.baselines.oracles import ibm1, ibm2, ideal_phase, irm1, irm2, mixture_phase, mwf
from jaxsep.baselines.trivial import mid_side, scaled_mixture, shared_mixture, untouched_mixture

__all__ = [
    "equalise",
    "ibm1",
    "ibm2",
    "ideal_phase",
    "irm1",
    "irm2",
    "learn_equaliser",
    "mid_side",
    "mixture_phase",
    "mwf",
    "scaled_mixture",
    "shared_mixture",
    "untouched_mixture",
]
