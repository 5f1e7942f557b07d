"""MMDenseNet against its transcription, and its counts."""

import jax
import jax.numpy as jnp
import pytest
import transcription_dense as oracle
from dense_parity import assert_equal, count, shapes, spectrum

from jaxsep.errors import JaxsepError
from jaxsep.models.mmdensenet import MMDenseNet

NARROW = MMDenseNet(
    splits=(10,),
    first=(4, 3, 4),
    growth=((3, 4, 4, 4, 4), (2,) * 3, (3,) * 3),
    layers=((2,) * 5, (2,) * 3, (1, 2, 1)),
)


def test_equal_to_the_transcription():
    """15 frames and 21 bins, odd at every scale; even kernels."""
    bands = {
        "low": (10, oracle.Net(4, (3, 4, 4, 4, 4), (2,) * 5, kernel=(3, 4))),
        "high": (11, oracle.Net(3, (2,) * 3, (2,) * 3)),
    }
    full = oracle.Net(4, (3,) * 3, (1, 2, 1), kernel=(3, 4))
    final = oracle.MMDENSENET["final"]
    assert_equal(
        NARROW, spectrum(2, 15, 21, 2), lambda p, x: oracle.mmdensenet(p, x, bands, full, final), bands, (2, 1, 1)
    )


@pytest.mark.full
def test_equal_to_the_transcription_at_full_width():
    sizes = oracle.MMDENSENET
    z = spectrum(1, 11, 1025, 2)
    assert_equal(
        MMDenseNet(), z, lambda p, x: oracle.mmdensenet(p, x, **sizes), sizes["bands"], (3, 3, 3), gradient=False
    )


def test_parameters():
    z = jax.ShapeDtypeStruct((1, 256, 1025, 2), jnp.complex64)
    params = shapes(MMDenseNet(), z)["params"]
    assert count(params) == 339_468
    assert count(params["band0"]) == 259_848
    matched = count(params["merge"]["match_norm1"]) + count(params["merge"]["match1"])
    assert count(params["band1"]) + matched == 54_878
    assert count(params["full"]) == 20_166
    assert count(params["merge"]["block"]) == 448 and count(params["merge"]["norm"]) == 8
    assert count(params["merge"]["filter"]) + count(params["merge"]["gate"]) == 20
    assert count(params["input"]) + count(params["output"]) == 4_100


def test_what_it_refuses():
    assert NARROW.lengths(13) == (13, 13)
    with pytest.raises(JaxsepError, match=r"model.splits=\(10,\) must rise and lie within the 10 bins"):
        NARROW.init(jax.random.key(0), spectrum(1, 8, 10, 2), None, False)
    with pytest.raises(JaxsepError, match="need 4 entries each"):
        NARROW.clone(splits=(5, 10)).init(jax.random.key(0), spectrum(1, 8, 21, 2), None, False)
