"""MMDenseLSTM against its transcription, and its counts."""

import jax
import jax.numpy as jnp
import pytest
import transcription_dense as oracle
from dense_parity import assert_equal, count, shapes, spectrum

from jaxsep.models.mmdenselstm import MMDenseLSTM

NARROW = MMDenseLSTM(
    splits=(7, 16),
    first=(4, 3, 2, 3),
    growth=((4,) * 5, (2,) * 3, (2, 0, 2), (3,) * 5),
    layers=((2,) * 5, (2,) * 3, (1, 0, 1), (1, 1, 2, 1, 1)),
    units=((0, 0, 5, 3, 0), (0, 2, 0), (0, 2, 0), (0, 0, 4, 0, 3)),
    final_growth=3,
    final_layers=3,
)


@pytest.mark.parametrize("dilated", [True, False])
def test_equal_to_the_transcription(dilated):
    """13 frames and 27 bins; LSTMs at bottlenecks, in decoders, alone; three bands of 4, 2 and 2 channels."""
    bands = {
        "low": (7, oracle.Net(4, (4,) * 5, (2,) * 5, units=((2, 5), (3, 3)))),
        "middle": (9, oracle.Net(3, (2,) * 3, (2,) * 3, units=((1, 2),))),
        "high": (11, oracle.Net(2, (2, 0, 2), (1, 1, 1), units=((1, 2),))),
    }
    full = oracle.Net(3, (3,) * 5, (1, 1, 2, 1, 1), units=((2, 4), (4, 3)))
    final = {"growth": 3, "layers": 3, "dilated": dilated}
    assert_equal(
        NARROW.clone(final_dilated=dilated),
        spectrum(1, 13, 27, 2),
        lambda p, x: oracle.mmdenselstm(p, x, bands, full, final),
        bands,
        (2, 1, 1, 2),
        gradient=dilated,
    )


@pytest.mark.full
def test_equal_to_the_transcription_at_full_width():
    sizes = oracle.MMDENSELSTM
    z = spectrum(1, 11, 2049, 2)
    reference = lambda p, x: oracle.mmdenselstm(p, x, **sizes)
    assert_equal(MMDenseLSTM(), z, reference, sizes["bands"], (3, 3, 2, 4), gradient=False)


@pytest.mark.parametrize("placement, total", [("after", 1_370_784), ("before", 1_370_402), ("parallel", 1_370_805)])
def test_parameters(placement, total):
    """The reference's less the second bias of its LSTMs: 4 units per direction."""
    net = MMDenseLSTM(placement=placement)
    second = sum(2 * 4 * units for band in net.units for units in band)
    assert second == 2_208
    params = shapes(net, jax.ShapeDtypeStruct((1, 64, 2049, 2), jnp.complex64))["params"]
    assert count(params) == total - second


def test_parameters_of_the_parts():
    net = MMDenseLSTM()
    params = shapes(net, jax.ShapeDtypeStruct((1, 64, 2049, 2), jnp.complex64))["params"]
    merge = params["merge"]
    expected = {"band0": 450_350, "band1": 32_873, "band2": 12_243, "full": 856_192}
    for (name, total), units in zip(expected.items(), net.units, strict=True):
        number = name.removeprefix("band")
        match = [merge[key] for key in (f"match{number}", f"match_norm{number}") if key in merge]
        assert count(params[name]) + count(match) + 8 * sum(units) == total
    assert count(merge["block"]) == 10_854 and count(merge["norm"]) == 24
    assert count([merge["filter"], merge["gate"]]) == 52
    assert count([params["input"], params["output"]]) == 8_196
