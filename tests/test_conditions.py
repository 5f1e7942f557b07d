"""What training asks a conditioned system for, alone and in the stream."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from test_pipeline import PLAIN, SEGMENT, SINGLE, SOURCES, STEMS, by_hand, config, planner, take, write

from jaxsep import losses
from jaxsep.data.conditions import conditions
from jaxsep.data.pipeline import batches
from jaxsep.data.tracks import open_tracks
from jaxsep.errors import JaxsepError

COUNT = 20_000

# Draws of the first version: they must never change, or old runs could not be continued.
GOLDEN = {
    "one_hot": [[0, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]],
    "cunet": [[0, 0, 1], [0, 1, 0], [0, 0, 0], [0, 1, 0]],
    "apart": [[True, True, False], [False] * 3, [False] * 3, [False] * 3],
}


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write(tmp_path_factory.mktemp("songs"))


def drawn(kind, numbers=range(COUNT), seed=5, sources=SINGLE):
    return conditions(kind, seed, numbers, sources, STEMS)


def test_draws_stay_what_they_are():
    numbers = [0, 1, 3, 10**12]
    np.testing.assert_array_equal(drawn("one_hot", numbers).targets[:, 0], GOLDEN["one_hot"])
    made = drawn("cunet", numbers)
    np.testing.assert_array_equal(made.targets[:, 0], GOLDEN["cunet"])
    np.testing.assert_array_equal(made.apart, GOLDEN["apart"])
    np.testing.assert_allclose(drawn("cunet", [13]).targets, [[[0.7352477, 0, 0]]], rtol=1e-6)


def test_one_hot_asks_for_each_source_as_often():
    made = drawn("one_hot")
    assert made.targets.shape == (COUNT, 1, 3) and made.targets.dtype == np.float32
    assert (made.targets.sum(-1) == 1).all() and set(made.targets.flat) == {0, 1}
    assert stats.chisquare(made.targets[:, 0].sum(0)).pvalue > 1e-4
    assert not made.apart.any()


def test_cunet_asks_for_one_all_none_and_grades_of_them():
    made = drawn("cunet")
    weights = made.targets[:, 0]
    kinds, rows = np.unique(weights > 0, axis=0, return_inverse=True)
    assert {tuple(kind) for kind in kinds.tolist()} == {
        *((i == 0, i == 1, i == 2) for i in range(3)),
        (True, True, True),
        (False, False, False),
    }
    assert stats.chisquare(np.bincount(rows)).pvalue > 1e-4
    factors = weights.max(1)[weights.any(1)]
    assert ((weights == 0) | (weights == weights.max(1, keepdims=True))).all()
    graded = factors[factors < 1]
    assert abs(len(graded) / len(factors) - 0.25) < 0.015
    assert stats.kstest(graded, "uniform").pvalue > 1e-4


def test_a_quarter_takes_what_is_not_asked_for_from_other_songs():
    """Independently of grades; never what is asked for."""
    made = drawn("cunet")
    unwanted = made.targets[:, 0] == 0
    assert not (made.apart & ~unwanted).any()
    some = unwanted.any(1)
    mixed = made.apart[some].any(1)
    assert (made.apart[some][mixed] == unwanted[some][mixed]).all()
    assert abs(mixed.mean() - 0.25) < 0.015
    graded = (made.targets.max((1, 2)) < 1)[some & ~unwanted.all(1)]
    both = made.apart[some & ~unwanted.all(1)].any(1)
    assert abs(both[graded].mean() - both[~graded].mean()) < 0.04


def test_a_stem_follows_all_sources_that_it_belongs_to():
    """The drums of {low: bass + drums, drums} stay where either is asked for; vocals are no source, and stay."""
    sources = {"low": ("bass", "drums"), "drums": ("drums",)}
    made = drawn("cunet", sources=sources)
    low, drums = made.targets[:, 0].T > 0
    mixed = made.apart.any(1)
    assert not made.apart[:, STEMS.index("vocals")].any()
    assert not made.apart[low].any()
    np.testing.assert_array_equal(made.apart[mixed, STEMS.index("drums")], ~drums[mixed])
    assert made.apart[mixed & drums & ~low, STEMS.index("bass")].all() and (mixed & drums & ~low).any()


def test_draws_hang_on_seed_and_number_alone():
    made = drawn("cunet")
    few = drawn("cunet", [7, 3, 19_999])
    np.testing.assert_array_equal(few.targets, made.targets[[7, 3, 19_999]])
    np.testing.assert_array_equal(few.apart, made.apart[[7, 3, 19_999]])
    assert (drawn("cunet", seed=6).targets != made.targets).any(axis=(1, 2)).mean() > 0.5


# The stream


@pytest.mark.parametrize("remix", ["none", "stem"])
def test_a_stream_of_one_hots_is_the_plain_one_with_targets_beside(songs, remix):
    """And so the stream without conditions is what it was."""
    cfg = config(songs, remix=remix)
    plain, asked = take(cfg, 3, SOURCES), take(config(songs, remix=remix, conditions="one_hot"), 3, SOURCES)
    expected = conditions("one_hot", cfg.seed, range(12), SOURCES, STEMS).targets.reshape(3, 4, 1, 2)
    for left, right, targets in zip(plain, asked, expected, strict=True):
        assert set(left) == {"mix", "sources"}
        for key in left:
            np.testing.assert_array_equal(left[key], right[key])
        np.testing.assert_array_equal(right["targets"], targets)


def test_unwanted_stems_are_read_from_songs_of_their_own(songs):
    """By hand: where songs are mixed, the unwanted stems lie where remixing puts them, the others where they did."""
    plain = config(songs, remix="none")
    cfg, remixed = config(songs, remix="none", conditions="cunet"), config(songs, remix="stem")
    made = conditions("cunet", cfg.seed, range(32), SINGLE, STEMS)
    seen = set()
    for step, batch in enumerate(take(cfg, 8)):
        for position in range(4):
            number = 4 * step + position
            together, own, apart = by_hand(plain, number), by_hand(remixed, number), made.apart[number]
            sources = np.where(apart[:, None, None], own, together)
            np.testing.assert_array_equal(batch["sources"][position], sources)
            np.testing.assert_array_equal(batch["mix"][position], np.add.reduce(sources))
            np.testing.assert_array_equal(batch["targets"][position], made.targets[number])
            seen.add(tuple(apart))
    assert len(seen) > 2 and any(0 < sum(apart) < 3 for apart in seen)
    plan = planner(cfg)(range(32), made.apart)
    at_home = np.where(made.apart, -1, plan.track)
    assert all(len({t for t in row if t >= 0}) <= 1 for row in at_home)


def test_the_same_targets_for_any_workers_processes_and_restarts(songs):
    cfg = config(songs, remix="none", conditions="cunet")
    whole = take(cfg, 5, workers=1)
    keys = ("mix", "sources", "targets")

    def shared(count):
        parts = [take(cfg, 5, process_index=p, process_count=count) for p in range(count)]
        return [{key: np.concatenate([part[key] for part in row]) for key in keys} for row in zip(*parts, strict=True)]

    restarted = take(cfg, 2) + take(cfg, 3, first_step=2)
    for other in (take(cfg, 5, workers=4), restarted, shared(2), shared(4)):
        for left, right in zip(whole, other, strict=True):
            for key in keys:
                np.testing.assert_array_equal(left[key], right[key])
    assert len({batch["targets"].tobytes() for batch in whole}) > 2
    assert whole[0]["targets"].shape == (4, 1, 3) and whole[0]["targets"].dtype == np.float32


def test_a_failing_step_can_be_told_what_it_asked_for(songs):
    cfg = config(songs, remix="none", conditions="cunet")
    stream = batches(open_tracks(cfg.data, "train"), SINGLE, cfg, first_step=0)
    lines = list(itertools.chain.from_iterable(stream.describe(step) for step in range(8)))
    made = conditions("cunet", cfg.seed, range(32), SINGLE, STEMS)
    plan = planner(cfg)(range(32), made.apart)
    for number, line in enumerate(lines):
        asked = line.rpartition("asked for ")[2]
        weights = dict(zip(STEMS, made.targets[number, 0], strict=True))
        assert asked == (" + ".join(f"{w:.2f} {stem}" for stem, w in weights.items() if w) or "nothing")
        assert f"bass 'Song {plan.track[number, 2]}' at {plan.start[number, 2] / 44100:.2f} s" in line


def test_what_cannot_be_asked_for_is_refused(songs):
    with pytest.raises(JaxsepError, match=r"data\.conditions='one-hot' is unknown.*did you mean 'one_hot'"):
        take(config(songs, conditions="one-hot"), 1)
    with pytest.raises(JaxsepError, match=r"data\.mixture='original'.*no data\.conditions='cunet'"):
        take(config(songs, mixture="original", conditions="cunet", **PLAIN), 1)
    (batch,) = take(config(songs, mixture="original", conditions="one_hot", **PLAIN), 1)
    assert batch["targets"].shape == (4, 1, 3) and batch["mix"].shape == (4, SEGMENT, 2)


@pytest.mark.parametrize("name", ["l1", "l2", "complex_l2", "si_sdr"])
def test_losses_of_a_target_that_is_silent_are_finite(name):
    """The condition that asks for nothing has a silent reference; the second example's estimate is silent, too."""
    loss = losses.build({"name": name})
    shape = (2, 1, 8, 9, 1) if loss.domain == "magnitude" else (2, 1, 500, 1)
    wave = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32).at[1].set(0)

    @jax.jit
    def both(wave):
        estimate = wave + 0j if loss.domain == "magnitude" else wave
        losses = loss(estimate, 0 * estimate)
        return losses.sum(), losses

    (_, value), gradient = jax.value_and_grad(both, has_aux=True)(wave)
    assert value.shape == (2, 1) and np.isfinite(np.asarray(value)).all()
    assert np.isfinite(np.asarray(gradient)).all() and np.abs(np.asarray(gradient[0])).max() > 0
