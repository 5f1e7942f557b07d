"""D3Net against its transcription, and its counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transcription_dense as oracle
from dense_parity import assert_equal, count, randomised, shapes, spectrum

from jaxsep import config as configs
from jaxsep import separator
from jaxsep.errors import JaxsepError
from jaxsep.models.d3net import D3Net

NARROW = D3Net(
    splits=(8,),
    top=24,
    first=(4, 3, 4),
    growth=((3, 4, 3, 3, 2), (2,) * 3, (2, 3, 2)),
    layers=((2, 3, 2, 2, 1), (1,) * 3, (2, 3, 2)),
    final_growth=3,
    final_layers=3,
)


def test_equal_to_the_transcription():
    """Bins above `top` included."""
    bands = {
        "low": (8, oracle.Net(4, (3, 4, 3, 3, 2), (2, 3, 2, 2, 1), 2, dilated=True)),
        "middle": (16, oracle.Net(3, (2,) * 3, (1,) * 3, 1, dilated=True)),
    }
    full = oracle.Net(4, (2, 3, 2), (2, 3, 2), 2, dilated=True)
    final = {"growth": 3, "layers": 3, "dilated": True}
    assert_equal(NARROW, spectrum(1, 12, 29, 2), lambda p, x: oracle.d3net(p, x, bands, full, final), bands, (2, 1, 1))


@pytest.mark.full
@pytest.mark.parametrize("source, poolings", [("vocals", (3, 2, 4)), ("bass", (3, 3, 4))])
def test_equal_to_the_transcription_at_full_width(source, poolings):
    config = configs.load_config("d3net.py")
    net, sizes = separator.build(config).net.nets[source], oracle.D3NET[source]
    z = spectrum(1, 16, 2049, 2)
    assert_equal(net, z, lambda p, x: oracle.d3net(p, x, **sizes), sizes["bands"], poolings, gradient=False)


PARTS = {
    "vocals": {"band0": 1_331_572, "middle": 658, "full": 1_614_993, "final": 12_810},
    "drums": {"band0": 1_231_714, "middle": 658, "full": 1_620_728, "final": 12_810},
    "bass": {"band0": 1_175_122, "middle": 804, "full": 1_224_690, "final": 11_832},
}


@pytest.mark.parametrize("source", PARTS)
def test_parameters(source):
    """Of each part as the config builds it; "other" is as vocals."""
    config = configs.load_config("d3net.py")
    nets = separator.build(config).net.nets
    assert nets["other"] == nets["vocals"]
    params = shapes(nets[source], jax.ShapeDtypeStruct((1, 256, 2049, 2), jnp.complex64))["params"]
    merge = params["merge"]
    parts = {
        "band0": count(params["band0"]),
        "middle": count([params["band1"], merge["match1"], merge["match_norm1"]]),
        "full": count(params["full"]),
        "final": count(merge["block"]),
    }
    assert parts == PARTS[source]
    assert count([merge["norm"], merge["filter"], merge["gate"]]) == 76
    assert count([params["input"], params["output"]]) == 7_298
    assert count(params) == configs.load_module("d3net.py").VARIANTS["paper"][source]


def test_bins_above_the_top_are_the_mixtures():
    """And nothing that the net has reaches them."""
    z = spectrum(1, 8, 29, 2)
    y = jax.jit(NARROW.apply, static_argnums=(2, 3))(randomised(NARROW, z), z, None, False)
    np.testing.assert_array_equal(y[:, :, 24:], jnp.abs(z)[:, :, 24:])
    assert float(jnp.abs(y[:, :, :24] - jnp.abs(z)[:, :, :24]).min()) > 0


def test_sources_take_the_same_lengths():
    nets = separator.build(configs.load_config("d3net.py")).net.nets.values()
    assert {net.lengths(250) for net in nets} == {(256, 256)}


@pytest.mark.parametrize(
    "fields, shape, message",
    [
        ({}, (6, 29), "6 frames, expected a multiple of 4"),
        ({}, (8, 20), "20 bins, fewer than model.top=24"),
        ({"splits": (6,)}, (8, 29), "a band of 6 bins, expected a multiple of 4"),
        ({"top": 25, "splits": (8,)}, (8, 29), "a band of 17 bins, expected a multiple of 2"),
        ({"splits": ()}, (8, 29), "need 2 entries each"),
    ],
)
def test_what_it_refuses(fields, shape, message):
    with pytest.raises(JaxsepError, match=message):
        NARROW.clone(**fields).init(jax.random.key(0), spectrum(1, *shape, 2), None, False)
