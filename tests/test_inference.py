"""Songs as streams, and the model around them: lengths, seams, rates, channels, batches, shifts, memory."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsep
from jaxsep import config as configs
from jaxsep import devices, inference, separator
from jaxsep.checkpoint import Checkpoints
from jaxsep.errors import JaxsepError
from jaxsep.inference import Model, Recipe
from jaxsep.streams import rechunk, resample_stream, separate_stream, shifted_mean, track_statistics
from jaxsep.types import Separation

SEGMENT = 1000


def noise(length, channels=2, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (length, channels)).astype(np.float32)


def in_blocks(wave, size):
    return [wave[start : start + size] for start in range(0, len(wave), size)]


def joined(stream):
    return np.concatenate(list(stream), axis=1)


def identity_and_half(batch, length):
    return np.stack([batch, batch / 2], axis=1)


@dataclasses.dataclass(frozen=True)
class Gains:
    """A separator whose stems are the mixture times fixed gains, after an optional nonlinearity."""

    gains: tuple[float, ...] = (1.0, 0.25)
    squash: bool = False

    def apply(self, variables, mix, targets, train):
        assert targets is None and train is False
        wave = jnp.tanh(mix) if self.squash else mix
        stems = jnp.stack([wave * gain * variables["scale"] for gain in self.gains], 1)
        return Separation(stems, stems)


def make_model(net=Gains(), sources="voice,rest=drums", rate=8000, channels=2, **recipe):
    config = configs.defaults()
    config.sources, config.sample_rate, config.channels = sources, rate, channels
    config.inference.segment = 0.25
    config.inference.update(recipe)
    return Model.from_parts(net, {"scale": jnp.float32(1)}, config)


# --- streams


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("length", [1, 3, SEGMENT - 1, SEGMENT, SEGMENT + 1, 10 * SEGMENT + SEGMENT // 2])
def test_identity_returns_its_input(length, overlap):
    wave = noise(length)
    for batch_size, block in ((1, 777), (8, 3000)):
        stream = separate_stream(
            identity_and_half, in_blocks(wave, block), segment=SEGMENT, overlap=overlap, batch_size=batch_size
        )
        stems = joined(stream)
        assert stems.dtype == np.float32 and stems.shape == (2, length, 2)
        np.testing.assert_allclose(stems[0], wave, atol=1e-6)
        np.testing.assert_allclose(stems[1], wave / 2, atol=1e-6)


def test_segments_of_different_loudness_leave_no_seams():
    """Each segment gets a gain of its own: the output must glide from one to the next, and not fade at the ends."""
    gains = np.random.default_rng(1).uniform(0.5, 1.5, 100)

    def largest_step(overlap):
        counter = itertools.count()
        stream = separate_stream(
            lambda batch, length: np.stack([batch * np.float32(gains[next(counter)])], 1),
            [np.ones((5_300, 1), np.float32)],
            segment=SEGMENT,
            overlap=overlap,
        )
        wave = joined(stream)[0, :, 0]
        assert wave[0] == pytest.approx(gains[0]) and wave.min() >= 0.5 and wave.max() <= 1.5
        return np.abs(np.diff(wave)).max()

    assert largest_step(0.5) < 0.005  # at most the range of gains, 1, spread over 500 samples, as triangles do
    assert largest_step(0.25) < 0.01
    assert largest_step(0.0) > 0.1  # the figure means something: without overlap there are steps


def test_last_segment_sees_real_context():
    batches = []

    def record(batch, length):
        batches.append(batch)
        return batch[:, None]

    wave = 1 + np.arange(2_345, dtype=np.float32)[:, None]
    joined(separate_stream(record, in_blocks(wave, 100), segment=SEGMENT, overlap=0.25))
    assert [batch[0, 0, 0] for batch in batches] == [1, 751, 1346]
    assert all((np.diff(batch[0, :, 0]) == 1).all() for batch in batches)


def demucs_chunks(length, segment, stride, fed):
    """(first sample fed, one after the last) of each chunk, by the description of Demucs' `apply_model`."""
    for offset in range(0, length, stride):
        size = min(segment, length - offset)
        yield offset - (fed(size) - size) // 2, offset - (fed(size) - size) // 2 + fed(size)


@pytest.mark.parametrize("length", [1, 700, 749, 750, 1_000, 1_750, 2_345, 10_001])
@pytest.mark.parametrize("fed", [lambda n: n, lambda n: 40 * -(-n // 40) + 200, lambda n: 1_200])
def test_short_last_segments_and_context_are_those_of_demucs(length, fed):
    seen = []

    def context(size):
        return (fed(size) - size) // 2, fed(size) - size - (fed(size) - size) // 2

    def record(batch, size):
        seen.append(batch[0, :, 0])
        before, after = context(size)
        return batch[:, None, before : batch.shape[1] - after]

    wave = 1 + np.arange(length, dtype=np.float32)[:, None]
    stems = joined(
        separate_stream(record, in_blocks(wave, 100), segment=SEGMENT, overlap=0.25, context=context, last="short")
    )
    np.testing.assert_allclose(stems[0], wave, rtol=1e-6)
    chunks = list(demucs_chunks(length, SEGMENT, 750, fed))
    assert len(seen) == len(chunks)
    for got, (first, end) in zip(seen, chunks, strict=True):
        number = np.arange(first, end)
        np.testing.assert_array_equal(got, np.where((number >= 0) & (number < length), number + 1, 0))


def test_a_moved_last_segment_has_its_context():
    seen = []

    def record(batch, size):
        seen.append((batch[0, 0, 0], batch[0, -1, 0]))
        return batch[:, None, 30:-70]

    wave = 1 + np.arange(2_345, dtype=np.float32)[:, None]
    stream = separate_stream(record, in_blocks(wave, 100), segment=SEGMENT, overlap=0.25, context=lambda size: (30, 70))
    np.testing.assert_allclose(joined(stream)[0], wave, rtol=1e-6)
    assert seen == [(0, 1_070), (721, 1_820), (1_316, 0)]


def test_every_call_has_one_shape_and_a_short_last_batch_is_padded():
    shapes = []

    def record(batch, length):
        shapes.append(batch.shape)
        return batch[:, None]

    for length in (3, 6_100):
        wave = noise(length, 1)
        np.testing.assert_allclose(
            joined(separate_stream(record, [wave], segment=SEGMENT, overlap=0.5, batch_size=8))[0], wave, atol=1e-6
        )
    assert set(shapes) == {(8, SEGMENT, 1)} and len(shapes) == 3


def test_stream_is_lazy():
    """The first stems leave when the second batch is done; a long song is not read to its end before that."""
    read = itertools.count()

    def endless():
        while next(read) < 10_000:
            yield np.ones((100, 1), np.float32)

    stream = separate_stream(
        lambda batch, length: batch[:, None], endless(), segment=SEGMENT, overlap=0.5, batch_size=2
    )
    next(stream)
    assert next(read) < 40


def test_segment_zero_is_one_call():
    shapes = []

    def record(batch, length):
        shapes.append(batch.shape)
        return batch[:, None]

    wave = noise(2_345)
    np.testing.assert_array_equal(joined(separate_stream(record, in_blocks(wave, 100), segment=0))[0], wave)
    assert shapes == [(1, 2_345, 2)]


def test_empty_stream_yields_nothing():
    assert list(separate_stream(identity_and_half, [], segment=SEGMENT)) == []
    assert list(separate_stream(identity_and_half, [], segment=0)) == []


def test_rechunk_keeps_order_and_sizes():
    wave = noise(1_003)
    blocks = list(rechunk(in_blocks(wave, 7), 100, axis=0))
    assert [len(block) for block in blocks] == [100] * 10 + [3]
    np.testing.assert_array_equal(np.concatenate(blocks), wave)


def test_shifts_average_over_delays_and_undo_them():
    """A separator that keeps even positions only: the delays decide what is left, the mean mixes it."""
    wave = noise(5_000, 1)

    def even(blocks):
        def mask(batch, length):
            return (batch * (np.arange(batch.shape[1]) % 2 == 0)[None, :, None])[:, None]

        return separate_stream(mask, blocks, segment=SEGMENT, overlap=0.0)

    sample = np.arange(5_000)
    stems = joined(shifted_mean(even, in_blocks(wave, 333), [3], 1))[0, :, 0]
    # The last segment was moved back to end with the song, hence only what lies before it is predicted.
    np.testing.assert_allclose(stems[:3_900], (wave[:, 0] * ((sample + 3) % 2 == 0))[:3_900])
    stems = joined(shifted_mean(even, in_blocks(wave, 333), [0, 3], 1))[0, :, 0]
    np.testing.assert_allclose(stems[:3_900], wave[:3_900, 0] / 2)


def test_track_statistics_are_those_of_the_mono_mix():
    wave = noise(12_345) + np.float32(3)
    mono = wave.astype(np.float64).mean(1)
    mean, scale = track_statistics(in_blocks(wave, 1_000))
    assert mean == pytest.approx(mono.mean(), rel=1e-12)
    assert scale == pytest.approx(mono.std(ddof=1) + 1e-8, rel=1e-12)
    assert track_statistics([np.zeros((10, 2), np.float32)]) == (0.0, 1e-8)


@pytest.mark.parametrize("rate", [22_050, 48_000, 192_000])
def test_resampled_stream_is_aligned_and_its_length_exact(rate):
    for length in (*range(1, 10), 5_001):
        assert sum(map(len, resample_stream([noise(length)], rate, 44_100, 2))) == -(-length * 44_100 // rate)
    seconds = np.arange(rate // 2) / rate
    wave = np.stack([np.sin(2 * np.pi * 440 * seconds), np.cos(2 * np.pi * 997 * seconds)], 1).astype(np.float32)
    out = np.concatenate(list(resample_stream(in_blocks(wave, 1_234), rate, 44_100, 2)))
    at = np.arange(len(out)) / 44_100
    expected = np.stack([np.sin(2 * np.pi * 440 * at), np.cos(2 * np.pi * 997 * at)], 1)
    np.testing.assert_allclose(out[2_000:-2_000], expected[2_000:-2_000], atol=1e-3)  # one sample off is 0.06


# --- the model


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000, 96_000])
def test_stems_have_the_rate_and_length_of_the_song(rate):
    seconds = np.arange(rate) / rate
    tone = np.sin(2 * np.pi * 440 * seconds) * np.hanning(rate)
    wave = np.stack([tone, -tone], 1).astype(np.float32)
    stems = make_model(rate=44_100).separate(wave, rate)
    assert list(stems) == ["voice", "rest"]
    np.testing.assert_allclose(stems["voice"], wave, atol=1e-3)
    np.testing.assert_allclose(stems["rest"], wave / 4, atol=1e-3)
    for length in (3, 1_001):
        assert make_model(rate=44_100).separate(wave[:length], rate)["rest"].shape == (length, 2)


@pytest.mark.parametrize("model_channels", [1, 2])
@pytest.mark.parametrize("shape", [(5_000,), (5_000, 1), (5_000, 2), (5_000, 6)])
def test_any_channel_count(shape, model_channels):
    wave = noise(5_000, 6).T[: 1 if len(shape) == 1 else shape[1]].T.reshape(shape)
    stems = make_model(channels=model_channels).separate(wave, 8_000)
    assert stems["voice"].shape == (5_000, 1 if len(shape) == 1 else shape[1])
    np.testing.assert_allclose(stems["voice"], wave.reshape(5_000, -1), atol=1e-6)
    np.testing.assert_allclose(stems["rest"], wave.reshape(5_000, -1) / 4, atol=1e-6)


def test_a_stereo_model_hears_mono_twice_and_its_channels_are_averaged():
    @dataclasses.dataclass(frozen=True)
    class LeftThree:
        def apply(self, variables, mix, targets, train):
            assert mix.shape[-1] == 2
            stems = (mix * jnp.array([3.0, 1.0]))[:, None]
            return Separation(stems, stems)

    model = make_model(LeftThree(), sources="voice")
    wave = noise(3_000, 1)
    np.testing.assert_allclose(model.separate(wave, 8_000)["voice"], 2 * wave, atol=1e-6)


def tiny():
    config = configs.load_config("configs/spleeter.py:demo")
    with config.unlocked():
        config.sources = "vocals,accompaniment=drums+bass+other"
        config.model.channels = (4, 8)
        config.front.frame, config.front.hop, config.front.bins = 512, 128, 128
        config.block, config.sample_rate = 16, 8_000
        config.inference.segment = 16 * 128 / 8_000
    net = separator.build(config)
    mix = jax.ShapeDtypeStruct((1, 2_048, 2), jnp.float32)
    shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, None, False), mix)
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: random.normal(0.3, 0.2, leaf.shape).astype(np.float32), shapes)
    return net, variables, config.lock()


def test_batches_shifts_and_runs_of_a_real_separator():
    model = Model.from_parts(*tiny())
    wave = noise(20_000)

    def stack(**changes):
        return np.stack(list(model.separate(wave, 8_000, **changes).values()))

    one = stack(batch_size=1)
    assert np.abs(one).max() > 0.01
    np.testing.assert_allclose(stack(batch_size=8), one, atol=1e-6)
    shifted = stack(shifts=2, seed=1)
    assert shifted.tobytes() == stack(shifts=2, seed=1).tobytes()
    assert one.tobytes() == stack(batch_size=1).tobytes()
    assert np.abs(shifted - stack(shifts=2, seed=2)).max() > 1e-4 < np.abs(shifted - one).max()
    np.testing.assert_allclose(shifted, one, atol=0.5)


def test_one_compilation_whatever_the_length_and_the_variables():
    net, variables, config = tiny()
    before = inference._forward._cache_size()
    for scale in (1.0, 2.0):
        model = Model.from_parts(net, jax.tree.map(lambda leaf, scale=scale: leaf * scale, variables), config)
        for length in (3, 5_000, 7_777):
            model.separate(noise(length), 8_000, batch_size=3)
    assert inference._forward._cache_size() == before + 1


def test_the_batch_is_halved_when_memory_runs_out(monkeypatch):
    forward, sizes, said = inference._forward, [], []

    def small_memory(net, length, variables, targets, mix):
        sizes.append(len(mix))
        if len(mix) > 3:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")
        return forward(net, length, variables, targets, mix)

    monkeypatch.setattr(inference, "_forward", small_memory)
    monkeypatch.setattr(inference, "AUTO_BATCH", 8)
    model = make_model()
    model._notify = said.append
    wave = noise(20_000)
    batch = np.stack([wave[:2_000]] * 8)
    np.testing.assert_allclose(model._apply(batch, 2_000, halve=True)[:, 0], batch, atol=1e-6)
    assert sizes == [8, 4, 2, 2, 2, 2] and len(said) == 2 and "going on with 2" in said[-1]
    sizes.clear()
    model._apply(batch, 2_000, halve=True)
    assert sizes == [2] * 4  # remembered for the next batch and the next song
    with pytest.raises(JaxsepError, match="batch size"):
        make_model().separate(wave, 8_000, batch_size=4)
    monkeypatch.setattr(
        inference, "_forward", lambda *_: (_ for _ in ()).throw(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED"))
    )
    with pytest.raises(JaxsepError, match="shorter segments"):
        make_model().separate(wave, 8_000)


def test_other_failures_of_the_separator_pass_through(monkeypatch):
    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(inference, "_forward", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        make_model().separate(noise(100), 8_000)


def test_standardised_songs_do_not_depend_on_their_level():
    wave = noise(9_000)
    model = make_model(Gains((1.0,), squash=True), sources="voice")
    quiet = model.separate(wave / 100, 8_000, standardise=True)["voice"]
    np.testing.assert_allclose(100 * quiet, model.separate(wave, 8_000, standardise=True)["voice"], atol=1e-4)
    assert np.abs(100 * model.separate(wave / 100, 8_000)["voice"] - model.separate(wave, 8_000)["voice"]).max() > 0.1
    mono = wave.mean(1).astype(np.float64)
    mean, scale = mono.mean(), mono.std(ddof=1)
    np.testing.assert_allclose(
        model.separate(wave, 8_000, standardise=True)["voice"], np.tanh((wave - mean) / scale) * scale + mean, atol=1e-5
    )


def test_recipe_of_the_config_is_the_default():
    model = make_model(overlap=0.5, shifts=2, batch_size=3)
    assert model.recipe == Recipe(segment=0.25, overlap=0.5, batch_size=3, shifts=2, seed=0, standardise=False)
    assert model.sources == ("voice", "rest") and model.sample_rate == 8_000 and model.channels == 2


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"overlap": 1.0}, "overlap=1.0"),
        ({"overlap": -0.1}, "overlap"),
        ({"segment": -1.0}, "segment=-1"),
        ({"segment": float("nan")}, "segment"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"shifts": -1}, "shifts=-1"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_recipes_that_make_no_sense(change, word):
    with pytest.raises(JaxsepError, match=word):
        Recipe(**change)


@pytest.mark.parametrize(
    ("audio", "rate", "words"),
    [
        (np.zeros((100, 2), np.int16), 8_000, "int16.*/ 32768"),
        (np.zeros((100, 2), np.complex64), 8_000, "complex64"),
        (np.zeros((0, 2), np.float32), 8_000, "empty"),
        (np.zeros((1, 100, 2), np.float32), 8_000, "shape"),
        (np.zeros((2, 44_100), np.float32), 8_000, r"audio\.T"),
        (np.array([0, np.nan, 0], np.float32), 8_000, "sample 1 is NaN"),
        (np.array([0, 0, np.inf], np.float32), 8_000, "sample 2 is NaN or infinite"),
        (np.zeros(100, np.float32), 0, "rate=0"),
        (np.zeros(100, np.float32), -8_000, "rate=-8000"),
        (np.zeros(100, np.float32), -1, "rate=-1"),
    ],
)
def test_arrays_that_are_no_songs(audio, rate, words):
    with pytest.raises(JaxsepError, match=words):
        make_model().separate(audio, rate)


def test_a_model_that_returns_nan_is_found_out():
    with pytest.raises(JaxsepError, match="NaN or infinity"):
        make_model(Gains((1.0, float("nan")))).separate(noise(100), 8_000)


def test_double_precision_and_lists_are_taken():
    wave = noise(3_000).astype(np.float64)
    np.testing.assert_allclose(make_model().separate(wave, 8_000)["voice"], wave, atol=1e-6)
    assert make_model().separate([0.0, 0.5, -0.5], 8_000)["voice"].dtype == np.float32


# --- loading


def test_load_rebuilds_the_model_from_its_run_folder(tmp_path):
    net, variables, config = tiny()
    (tmp_path / "config.json").write_text(configs.to_json(config))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, dict(variables), {}, sdr=1.0)
        checkpoints.wait()
    wave = noise(5_000)
    expected = Model.from_parts(net, variables, config).separate(wave, 8_000)
    for found in (
        jaxsep.load(tmp_path).separate(wave, 8_000),
        jaxsep.load(str(tmp_path), checkpoint=7, device="cpu:3").separate(wave, 8_000),
        jaxsep.separate(wave, 8_000, tmp_path),
    ):
        assert list(found) == list(expected)
        for source, stem in expected.items():
            np.testing.assert_array_equal(found[source], stem)
    assert jaxsep.load(tmp_path, device="cpu:3").device.id == 3


def test_what_is_not_a_run_folder(tmp_path):
    with pytest.raises(JaxsepError, match="not a run folder"):
        jaxsep.load(tmp_path / "nothing here")


def test_a_layer_that_asks_where_it_will_run_is_told():
    """As layers on cuDNN do while they are traced, which a program for another device of the machine cannot have."""
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Asking(Gains):
        def apply(self, *args):
            seen.append(jax.config.jax_default_device)
            return super().apply(*args)

    chosen = jax.devices()[2]
    config = make_model().config
    Model.from_parts(Asking(), {"scale": jnp.float32(1)}, config, chosen).separate(noise(100), 8_000)
    assert seen == [chosen] and jax.config.jax_default_device is None


@pytest.mark.parametrize("name", ["gpu", "tpu", "gpu:1", "cpu:9"])
def test_a_named_device_must_be_there(name):
    with pytest.raises(JaxsepError, match=f"device='{name}'"):
        devices.pick(name)


@pytest.mark.parametrize("name", ["", "cuda", "cpu:", "gpu:x", "CPU"])
def test_device_names_of_another_form(name):
    with pytest.raises(JaxsepError, match="expected auto, cpu, gpu or tpu"):
        devices.pick(name)


def test_the_device_is_said_with_a_reason():
    assert devices.describe(devices.pick("cpu:2"), "cpu:2") == "cpu:2 (of 4), as asked"
    assert "because" in devices.describe(devices.pick("auto"))
