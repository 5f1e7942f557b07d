"""Ideal phase: the magnitudes of a system, the phases of the true sources."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxsep.errors import JaxsepError
from jaxsep.frontends import Identity, Stft
from jaxsep.heads import AmplitudePhase, Magnitude, Map, Mask, RatioMask, Wiener
from jaxsep.inference import Model
from jaxsep.phase import IdealPhase
from jaxsep.separator import PerSource, Separator

RATE = 4000
FRONT = Stft(frame=256, hop=64, bins=100)


class Told(nn.Module):
    """A net that knows the answer: its output is a parameter."""

    shape: tuple[int, ...]

    def lengths(self, length: int) -> tuple[int, int]:
        return length, length

    @nn.compact
    def __call__(self, latent, targets, train):
        return self.param("answer", nn.initializers.zeros, self.shape)


class Tilt(nn.Module):
    """A net of one source, or of those it is asked for, the j-th j times as loud: a curve over bins and magnitudes."""

    def lengths(self, length: int) -> tuple[int, int]:
        return length, length

    @nn.compact
    def __call__(self, latent, targets, train):
        weight = self.param("weight", nn.initializers.normal(), ())
        curve = weight * (jnp.linspace(0, 1, latent.shape[2])[:, None] + jnp.log1p(jnp.abs(latent)))
        if targets is None:
            return curve
        return (targets @ jnp.arange(1.0, targets.shape[2] + 1))[:, :, None, None, None] * curve[:, None]


def songs(channels: int, seconds: float = 1.0, seed: int = 0):
    """Stems [2 t c] of noise."""
    return np.random.default_rng(seed).uniform(-0.3, 0.3, (2, int(seconds * RATE), channels)).astype(np.float32)


def beside(stems):
    """What enters a model with ideal phase: the mixture and its stems, in channels."""
    return np.concatenate([stems.sum(axis=0), *stems], axis=1)


def model(separator: Any, variables: Any, channels: int = 2, **recipe: Any) -> Model:
    inference = ConfigDict({"segment": 0.0, "overlap": 0.25, "batch_size": 1, **recipe})
    config = ConfigDict({"sources": "a,b", "sample_rate": RATE, "channels": channels, "inference": inference})
    return Model.from_parts(separator, variables, config)


def tilted(post=None) -> tuple[Any, Any]:
    """(separator of two nets, variables)."""
    separator = Separator(FRONT, PerSource({"a": Tilt(), "b": Tilt()}), Mask(), post=post)
    return separator, separator.init(jax.random.key(1), jnp.zeros((1, 512, 2)), None, False)


def test_exact_magnitudes_with_ideal_phase_are_the_stems():
    stems = songs(channels=2)
    front = FRONT.clone(bins=None)
    truth = jnp.abs(front.encode(jnp.asarray(stems)))[None]
    separator = Separator(front, Told(truth.shape), Magnitude())
    told = model(separator, {"params": {"net": {"answer": truth}}})
    ideal = told.with_ideal_phase().separate(beside(stems), RATE)
    of_mixture = told.separate(stems.sum(axis=0), RATE)
    assert list(ideal) == ["a", "b"]
    for name, stem in zip("ab", stems, strict=True):
        np.testing.assert_allclose(ideal[name], stem, atol=1e-5)
        assert np.abs(of_mixture[name] - stem).max() > 0.1


@pytest.mark.parametrize("post", [None, RatioMask(), Wiener()], ids=["no filter", "ratio mask", "wiener"])
def test_phases_replace_those_of_what_would_be_decoded(post):
    """Two nets and a post-filter: by hand, |final| e^(i angle of the stem), inverted."""
    separator, variables = tilted(post=post)
    stems = songs(channels=2)
    mix = jnp.asarray(stems.sum(axis=0)[None])
    latents = separator.apply(variables, mix, None, False).latents
    final = np.asarray(latents if post is None else post(latents, FRONT.encode(mix)))[0]
    angles = np.angle(np.asarray(FRONT.encode(jnp.asarray(stems))))[..., : final.shape[2], :]
    expected = FRONT.decode(jnp.asarray(np.abs(final) * np.exp(1j * angles), jnp.complex64), stems.shape[1])
    ideal = model(separator, variables).with_ideal_phase().separate(beside(stems), RATE)
    np.testing.assert_allclose(np.stack(list(ideal.values())), expected, atol=2e-6)


def test_a_conditioned_net():
    separator: Any = Separator(FRONT, Tilt(), Mask("relu"))
    variables = {"params": {"net": {"weight": jnp.float32(0.5)}}}
    stems, targets = songs(channels=2), jnp.asarray([[[1.0, 0, 0], [0, 0, 1.0]]])
    waves = jnp.asarray(beside(stems)[None])
    found = IdealPhase(separator, 2).apply(variables, waves, targets, False)
    plain = separator.apply(variables, waves[..., :2], targets, False).latents
    assert np.abs(plain[:, 1] - 3 * plain[:, 0]).max() < 1e-4 < np.abs(plain).max()  # the targets reach the net
    np.testing.assert_array_equal(found.latents, plain)
    true = FRONT.encode(jnp.asarray(stems))[None, ..., :100, :]
    np.testing.assert_allclose(
        found.stems, FRONT.decode(jnp.abs(plain) * true / jnp.abs(true), stems.shape[1]), atol=2e-6
    )


@pytest.mark.parametrize(
    ("rate", "channels", "recipe"),
    [
        (RATE, 2, {"segment": 0.3, "overlap": 0.5, "batch_size": 2}),
        (RATE, 2, {"segment": 0.3, "shifts": 2, "seed": 3}),
        (RATE, 2, {"standardise": True}),
        (RATE, 1, {"segment": 0.3}),
        (RATE, 3, {}),
        (6000, 2, {"segment": 0.3}),
        (3000, 1, {"segment": 0.3}),
    ],
    ids=["segments", "shifts", "standardised", "mono", "three channels", "resampled", "mono resampled"],
)
def test_the_phase_of_the_mixture_changes_nothing(rate, channels, recipe):
    """Where every "true source" is the mixture itself, ideal phase is mixture phase, however the song is cut."""
    plain = model(*tilted(), **recipe)
    mixture = songs(channels, seconds=1.13)[0] + 0.1
    ideal = plain.with_ideal_phase().separate(np.concatenate([mixture] * 3, axis=1), rate)
    for name, wave in plain.separate(mixture, rate).items():
        assert wave.shape == mixture.shape
        np.testing.assert_allclose(ideal[name], wave, atol=2e-6)


def test_each_source_has_its_own_phase_in_segments():
    """With references of opposite sign and a mixture of one of them, estimates differ in sign; blocks do not mix."""
    plain = model(*tilted(), segment=0.3)
    mixture = songs(2)[0]
    ideal = plain.with_ideal_phase().separate(np.concatenate([mixture, mixture, -mixture], axis=1), RATE)
    expected = plain.separate(mixture, RATE)
    np.testing.assert_allclose(ideal["a"], expected["a"], atol=2e-6)
    np.testing.assert_allclose(ideal["b"], -expected["b"], atol=2e-6)


def test_a_silent_source_keeps_the_phase_of_the_estimate():
    plain = model(*tilted())
    mixture = songs(2)[0]
    ideal = plain.with_ideal_phase().separate(np.concatenate([mixture, mixture, 0 * mixture], axis=1), RATE)
    np.testing.assert_allclose(ideal["b"], plain.separate(mixture, RATE)["b"], atol=2e-6)


@pytest.mark.parametrize(("front", "head"), [(FRONT, Map()), (FRONT, AmplitudePhase()), (Identity(), Mask())])
def test_systems_with_phases_of_their_own_are_refused(front, head):
    with pytest.raises(JaxsepError, match=f"estimate magnitudes .* head {type(head).__name__}") as caught:
        model(Separator(front, Tilt(), head), {}).with_ideal_phase()
    assert "\n" not in str(caught.value)
