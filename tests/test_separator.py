"""The flow around a net: context, blocks, cropping, one net per source. With nets whose answer is known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep.config import check, load_config
from jaxsep.errors import JaxsepError
from jaxsep.frontends import Identity, Stft
from jaxsep.separator import Blend, PerSource, Separator, build


def _first(y, z):
    return y


class Copy(nn.Module):
    """Two sources: the input, and its negative."""

    multiple: int = 1

    def lengths(self, length):
        return (padded := -(-length // self.multiple) * self.multiple), padded

    def __call__(self, z, targets, train):
        assert z.shape[1] % self.multiple == 0
        return jnp.stack([z, -z], axis=1)


class Valid(nn.Module):
    """A moving sum over five samples without padding: n + 4 in, n out."""

    def lengths(self, length):
        return length + 4, length

    def __call__(self, z, targets, train):
        n = z.shape[1] - 4
        return sum(z[:, i : i + n] for i in range(5))[:, None]


class BlockMean(nn.Module):
    """Every frame becomes the mean over the frames that the net sees."""

    def lengths(self, length):
        return length, length

    def __call__(self, z, targets, train):
        return (jnp.zeros_like(z) + z.mean(axis=1, keepdims=True))[:, None]


class Scale(nn.Module):
    def lengths(self, length):
        return length, length

    @nn.compact
    def __call__(self, z, targets, train):
        return z * self.param("gain", nn.initializers.normal(), ())


def _wave(t, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((2, t, 2)), jnp.float32)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 100])
def test_padding_to_the_nets_length_is_undone(length):
    wave = _wave(length)
    out = Separator(Identity(), Copy(8), _first).apply({}, wave, None, False)
    np.testing.assert_array_equal(out.stems, np.stack([wave, -wave], 1))


def test_a_net_without_padding_is_fed_context():
    wave = _wave(20)
    out = Separator(Identity(), Valid(), _first).apply({}, wave, None, False)
    padded = np.pad(wave, [(0, 0), (2, 2), (0, 0)])
    expected = sum(padded[:, i : i + 20] for i in range(5))
    np.testing.assert_allclose(out.stems[:, 0], expected, atol=1e-6)


def test_zeros_lie_around_a_wave_in_equal_parts():
    """Of 9 samples a net of strides of 8 gets 3 zeros in front and 4 behind, as under Demucs' `center_trim`."""
    seen = []

    def keep(y, z):
        seen.append(y[0, 0, :, 0])
        return y

    class Look(Copy):
        def __call__(self, z, targets, train):
            seen.append(z[0, :, 0])
            return super().__call__(z, targets, train)

    wave = jnp.abs(_wave(9)) + 1
    out = Separator(Identity(), Look(8), keep).apply({}, wave, None, False)
    assert (np.flatnonzero(np.asarray(seen[0])) == 3 + np.arange(9)).all() and seen[0].shape == (16,)
    np.testing.assert_array_equal(out.stems[:, 0], wave)


def test_with_context_a_net_yields_the_middle_and_sees_no_zeros():
    wave = _wave(24)
    separator = Separator(Identity(), Valid(), _first, context=True)
    assert separator.surroundings(20) == (2, 2) and separator.clone(context=False).surroundings(20) == (0, 0)
    stems = separator.apply({}, wave, None, False).stems
    np.testing.assert_allclose(stems[:, 0], sum(np.asarray(wave)[:, i : i + 20] for i in range(5)), atol=1e-6)
    short = separator.apply({}, wave[:, :3], None, False).stems  # too short for any context: zeros, as ever
    np.testing.assert_allclose(
        short, separator.clone(context=False).apply({}, wave[:, :3], None, False).stems, atol=1e-6
    )


def test_with_context_lengths_that_the_net_does_not_fill_are_refused():
    class Strided(Valid):
        def lengths(self, length):
            return -(-length // 4) * 4 + 4, -(-length // 4) * 4

        def __call__(self, z, targets, train):
            return super().__call__(z[:, : z.shape[1] // 4 * 4], targets, train)

    separator = Separator(Identity(), Strided(), _first, context=True)
    assert separator.apply({}, _wave(24), None, False).stems.shape[2] == 20
    with pytest.raises(JaxsepError, match="give it 24"):
        separator.apply({}, _wave(26), None, False)
    config = load_config("spleeter.py:demo").unlock()
    config.context = True
    with pytest.raises(JaxsepError, match="identity"):
        build(config)


def test_blocks_are_seen_one_by_one():
    wave = _wave(10)
    out = Separator(Identity(), BlockMean(), _first, block=4).apply({}, wave, None, False)
    padded = np.pad(wave, [(0, 0), (0, 2), (0, 0)]).reshape(2, 3, 4, 2)
    expected = np.repeat(padded.mean(2, keepdims=True), 4, axis=2).reshape(2, 12, 2)[:, :10]
    np.testing.assert_allclose(out.stems[:, 0], expected, atol=1e-6)


def test_a_block_that_the_net_does_not_take_is_refused():
    with pytest.raises(JaxsepError, match="block=6"):
        Separator(Identity(), Copy(4), _first, block=6).apply({}, _wave(12), None, False)


def test_one_net_per_source_is_keyed_by_name_and_drawn_apart():
    wave = _wave(6)
    separator = Separator(Identity(), PerSource({"vocals": Scale(), "bass": Scale()}), _first)
    variables = separator.init(jax.random.key(0), wave, None, False)
    gains = variables["params"]["net"]
    assert set(gains) == {"vocals", "bass"} and gains["vocals"]["gain"] != gains["bass"]["gain"]
    out = separator.apply(variables, wave, None, False)
    np.testing.assert_allclose(out.stems[:, 0], wave * gains["vocals"]["gain"], rtol=1e-6)
    np.testing.assert_allclose(out.stems[:, 1], wave * gains["bass"]["gain"], rtol=1e-6)


def test_the_net_sees_the_band_only_and_the_post_filter_everything():
    seen = {}

    def post(latents, mix):
        seen["latents"], seen["mix"] = latents.shape, mix.shape
        return jnp.repeat(mix[:, None], latents.shape[1], 1)

    wave = _wave(4000)
    separator = Separator(Stft(64, 16, bins=20), Copy(), _first, post)
    out = separator.apply({}, wave, None, False)
    frames = Stft(64, 16).frames(4000)
    assert seen == {"latents": (2, 2, frames, 20, 2), "mix": (2, frames, 33, 2)}
    assert out.latents.shape == (2, 2, frames, 20, 2)
    np.testing.assert_allclose(out.stems[:, 1], wave, atol=1e-5)
    trained = separator.apply({}, wave, None, True)  # without the filter the upper bins are gone
    assert float(jnp.abs(trained.stems[:, 0] - wave).max()) > 0.1


def test_references_are_encoded_as_the_mixture_is():
    wave = _wave(3000)
    separator = Separator(Stft(64, 16, bins=20), Copy(), _first)
    latents = separator.apply({}, jnp.stack([wave, -wave], 1), method="encode")
    np.testing.assert_allclose(latents, separator.apply({}, wave, None, True).latents, atol=1e-6)


@pytest.mark.parametrize("length", [1, 5, 8, 9, 30])
def test_overlapping_blocks_average_what_each_block_says(length):
    """Every frame is the mean of the two blocks of 8 that hold it, the first starting 4 frames before the song."""
    wave = _wave(length)
    separator = Separator(Identity(), BlockMean(), _first, block=8, block_overlap=0.5)
    count = -(-(length + 4) // 4)
    padded = np.pad(wave, [(0, 0), (4, 8 + 4 * count), (0, 0)])
    total = np.zeros_like(padded)
    for start in range(0, 4 * count, 4):
        total[:, start : start + 8] += padded[:, start : start + 8].mean(1, keepdims=True) / 2
    stems = separator.apply({}, wave, None, False).stems
    np.testing.assert_allclose(stems[:, 0], total[:, 4 : 4 + length], atol=1e-6)
    plain = Separator(Identity(), BlockMean(), _first, block=8)
    np.testing.assert_array_equal(separator.apply({}, wave, None, True).stems, plain.apply({}, wave, None, True).stems)


def test_an_identity_stays_one_under_overlapping_blocks():
    wave = _wave(50)
    out = Separator(Identity(), Copy(), _first, block=12, block_overlap=2 / 3).apply({}, wave, None, False)
    np.testing.assert_allclose(out.stems[:, 0], wave, atol=1e-6)
    with pytest.raises(JaxsepError, match=r"block_overlap=0.7: expected 0, 1/2, 2/3"):
        Separator(Identity(), Copy(), _first, block=12, block_overlap=0.7).apply({}, wave, None, False)


class LeftOnly(nn.Module):
    """The first channel's samples on the first channel; squares on the second."""

    def lengths(self, length):
        return length, length

    def __call__(self, z, targets, train):
        return jnp.stack([z[..., 0], z[..., 1] ** 2], axis=-1)[:, None]


def test_channel_swap_averages_with_the_exchanged_mixture_in_evaluation():
    wave = _wave(9)
    separator = Separator(Identity(), LeftOnly(), _first, swap_channels=True)
    np.testing.assert_allclose(separator.apply({}, wave, None, False).stems[:, 0], (wave + wave**2) / 2, atol=1e-6)
    trained = separator.apply({}, wave, None, True).stems[:, 0]
    np.testing.assert_array_equal(trained[..., 0], wave[..., 0])


def test_a_blend_is_the_mean_of_nets_drawn_apart():
    wave = _wave(6)
    separator = Separator(Identity(), PerSource({"bass": Blend([Scale(), Scale(), Scale()])}), _first)
    variables = separator.init(jax.random.key(0), wave, None, False)
    gains = [float(variables["params"]["net"]["bass"][str(i)]["gain"]) for i in range(3)]
    assert len(set(gains)) == 3
    out = separator.apply(variables, wave, None, False)
    np.testing.assert_allclose(out.stems[:, 0], wave * np.mean(gains), rtol=1e-5)


def test_one_net_per_source_takes_no_conditions():
    separator = Separator(Identity(), PerSource({"bass": Copy()}), _first)
    with pytest.raises(JaxsepError, match="takes no conditions"):
        separator.apply({}, _wave(6), jnp.ones((2, 1, 1)), False)


def test_nets_of_sources_may_differ():
    config = load_config("configs/spleeter.py:demo")
    with config.unlocked():
        config.model_by_source = {"drums": {"channels": (4, 4)}}
    separator = build(config)
    assert [net.channels for net in separator.net.nets.values()] == [(8, 16, 32, 64), (4, 4), *[(8, 16, 32, 64)] * 2]
    check(config)
    with config.unlocked():
        config.model_by_source = {"drum": {"channels": (4, 4)}}
    with pytest.raises(JaxsepError, match="model_by_source: 'drum' is neither"):
        check(config)
