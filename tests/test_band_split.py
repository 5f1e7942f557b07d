"""One net per band: what each sees and yields, what helper and merge net add, and how a config asks for them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep import config as configs
from jaxsep import losses, optim, separator, training
from jaxsep.errors import JaxsepError
from jaxsep.models.band_split import BandSplit, names
from jaxsep.models.spleeter import UNet


class Same(nn.Module):
    """Yields the magnitudes that it is fed, and has been fed bins in multiples of `unit`."""

    unit: int = 1

    def lengths(self, length):
        return length, length

    @nn.compact
    def __call__(self, z, targets, train):
        assert z.shape[2] % self.unit == 0
        return jnp.abs(z)


def spectrum(bins=24, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((2, 8, bins, 2)) + 1j * rng.standard_normal((2, 8, bins, 2)), jnp.complex64)


@pytest.mark.parametrize(("splits", "unit"), [((7,), 1), ((1, 5, 23), 1), ((7,), 4), ((5, 18), 16)])
def test_nets_that_change_nothing_give_the_input(splits, unit):
    net = BandSplit({name: Same(unit) for name in names(splits, False)}, splits, multiple=unit)
    np.testing.assert_array_equal(net.apply({}, spectrum(), None, False), jnp.abs(spectrum()))
    both = BandSplit({name: Same(unit) for name in names(splits, True)}, splits, multiple=unit)
    np.testing.assert_array_equal(both.apply({}, spectrum(), None, False), 2 * jnp.abs(spectrum()))


def unets(full=False, **fields):
    splits = (8,)
    return BandSplit({name: UNet((2, 4)) for name in names(splits, full)}, splits, **fields)


@functools.cache
def compiled(full, merge):
    """Magnitudes to the output, [2 n f c] both, of U-nets for bins 0..7 and 8..23."""
    net = unets(full, merge=merge)
    variables = jax.jit(lambda key: net.init(key, spectrum(), None, False))(jax.random.key(0))
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)  # no ReLU is dead
    return jax.jit(lambda magnitude: net.apply(variables, magnitude * jnp.sign(spectrum()), None, False))


def changed(full, merge, bin):
    """Which bins of the output change with one bin of the input."""
    apply, magnitude = compiled(full, merge), jnp.abs(spectrum())
    difference = apply(magnitude.at[:, :, bin].add(1.0)) - apply(magnitude)
    return set(np.flatnonzero(np.abs(difference).max(axis=(0, 1, 3)) > 1e-6).tolist())


def test_bands_do_not_see_each_other_unless_helped():
    low, high = set(range(8)), set(range(8, 24))
    assert changed(False, 0, 3) and changed(False, 0, 3) <= low
    assert changed(False, 0, 8) and changed(False, 0, 8) <= high
    assert changed(True, 0, 3) & high and changed(True, 0, 8) & low
    assert changed(False, 3, 8) & low == {6, 7}  # two convolutions of three bins reach two


def test_each_band_has_the_statistics_of_its_bins():
    class Standard(Same):
        with_statistics = staticmethod(lambda params, mean, std: {"mean": mean, "std": std})

    net = BandSplit({name: Standard() for name in names((3,), True)}, (3,), multiple=4)
    mean, std = jnp.arange(10.0), jnp.arange(10.0) + 0.5
    assert net.wants_statistics and not unets().wants_statistics
    made = net.with_statistics({"band0": {}, "band1": {}, "full": {}, "merge": "kept"}, mean, std)
    np.testing.assert_array_equal(made["band0"]["mean"], [0, 1, 2, 0])
    np.testing.assert_array_equal(made["band1"]["std"], [3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5, 1])
    assert made["full"]["mean"].shape == (12,) and made["merge"] == "kept"


def test_frames_are_those_that_all_nets_take():
    net = BandSplit({"band0": UNet((2,) * 2), "band1": UNet((2,) * 3)}, (8,))
    assert net.lengths(9) == (16, 16) and net.lengths(16) == (16, 16)


def tiny(**bands):
    config = configs.load_config("spleeter.py:demo")
    config.sources, config.channels, config.block, config.data.segment, config.data.batch_size = "vocals", 1, 8, 64, 2
    config.front.update(frame=64, hop=16, bins=24)
    config.model.channels = (2, 4)
    with config.unlocked():
        config.bands.update({"splits": (8,), "full": True, "merge": 2, **bands})
    configs.check(config)
    return config


def test_a_config_makes_it_and_a_step_trains_all_of_it():
    config = tiny(by_band={"full": {"channels": (3, 4)}})
    model, mesh = separator.build(configs.from_json(configs.to_json(config))), training.make_mesh(jax.devices()[:1])
    optimiser = optim.build(config.optim, config.steps)
    state = training.init_state(model, optimiser, config, mesh)
    before = jax.device_get(state.params)["net"]["vocals"]
    assert set(before) == {"band0", "band1", "full", "merge_hidden", "merge"}
    assert before["band0"]["conv1"]["kernel"].shape[-1] == 2 and before["full"]["conv1"]["kernel"].shape[-1] == 3
    step = training.compile_train_step(model, losses.from_config(config), optimiser, config, mesh, state)
    stems = np.random.default_rng(0).standard_normal((2, 1, 64, 1)).astype(np.float32)
    batch = training.put({"mix": stems.sum(axis=1) * 2, "sources": stems}, mesh)
    state, metrics = step(state, batch, np.float32(1))
    after = jax.device_get(state.params)["net"]["vocals"]
    assert metrics.ok
    for name, tree in before.items():
        moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (tree, after[name])), strict=True)]
        assert max(moved) > 1e-6, name


def test_parameters_are_those_of_the_nets():
    def count(variant, **model):
        config = configs.load_config(f"spleeter.py:{variant}")
        config.sources = "vocals"
        config.model.update(model)
        mix = jax.ShapeDtypeStruct((1, config.data.segment, config.channels), jnp.float32)
        made = separator.build(config)
        shapes = jax.eval_shape(lambda mix: made.init(jax.random.key(0), mix, None, False), mix)["params"]
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    assert count("bands") == 2 * count("report") + count("report", channels=(8, 16, 32, 64, 128, 256))
    config = configs.load_config("spleeter.py:bands")
    assert config.bands.splits[0] * config.sample_rate / config.front.frame == pytest.approx(2756, abs=0.5)


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ({"splits": (), "full": True, "merge": 0}, "bands: full, merge and by_band need bands.splits"),
        ({"by_band": {"band2": {}}}, "bands.by_band: 'band2' is no net of bands.splits"),
        ({"full": False, "by_band": {"full": {}}}, "bands.by_band: 'full' is no net"),
        ({"multiple": 0}, "multiple=0; expected 0 or more, 1 or more"),
    ],
)
def test_bands_that_make_no_sense_are_refused(bands, message):
    with pytest.raises(JaxsepError, match=message):
        tiny(**bands)


@pytest.mark.parametrize("splits", [(24,), (0, 8), (16, 8), (30,)])
def test_splits_lie_within_the_bins(splits):
    net = BandSplit({name: Same() for name in names(splits, False)}, splits)
    with pytest.raises(JaxsepError, match="must rise and lie within the 24 bins"):
        net.apply({}, spectrum(), None, False)


def test_bands_need_bins():
    config = configs.load_config("demucs.py:demo")
    config.bands.splits = (8,)
    with pytest.raises(JaxsepError, match=r"bands.splits: front.name='identity' gives waves, without bins"):
        separator.build(config)
