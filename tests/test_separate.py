"""`jaxsep separate` on real files: what is written where, at which level, and what happens to bad input."""

import io
import itertools
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from jaxsep import config as configs
from jaxsep import separator, songs
from jaxsep.checkpoint import Checkpoints
from jaxsep.errors import JaxsepError
from jaxsep.inference import Model
from jaxsep.outputs import Encoding, choose_outputs, name_output
from jaxsep.progress import Progress, clock
from jaxsep.types import Separation

RATE = 8_000
SOURCES = ("vocals", "drums", "bass", "other")
GAINS = (0.5, 0.25, 0.125, 0.0625)
STEP = 2**-23  # of 24 bits


class Gains:
    """Stems are the mixture times fixed gains."""

    def __init__(self, gains):
        self.gains = gains

    def apply(self, variables, mix, targets, train):
        stems = jnp.stack([mix * gain for gain in self.gains], 1)
        return Separation(stems, stems)


def noise(length=5_000, channels=2, level=0.9, seed=0):
    return np.random.default_rng(seed).uniform(-level, level, (length, channels)).astype(np.float32)


def song(path, wave, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return wave


def read(path):
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate == RATE
    return wave


class Bench:
    """A run folder whose model is made of gains, and one call to separate with it."""

    def __init__(self, folder, monkeypatch):
        self.run, self.out = folder / "a run", folder / "out put"
        self.run.mkdir()
        self.loads, self.said = 0, []
        self.monkeypatch = monkeypatch
        self.use(",".join(SOURCES), GAINS)

    def use(self, sources, gains, channels=2):
        config = configs.defaults()
        config.sources, config.sample_rate, config.channels = sources, RATE, channels
        config.data.stems = sources
        config.inference.segment = 0.25
        (self.run / "config.json").write_text(configs.to_json(config))

        def load(run, checkpoint, device):
            self.loads += 1
            return Model.from_parts(Gains(gains), {}, config)

        self.monkeypatch.setattr(songs, "load", load)

    def separate(self, *inputs, **options):
        self.stdout, self.stderr = io.StringIO(), io.StringIO()
        mode = options.pop("progress", "none")
        return songs.separate_files(
            inputs,
            self.out,
            self.run,
            progress=Progress(mode, self.stdout, self.stderr),
            say=self.said.append,
            **options,
        )

    def files(self):
        return sorted(path.relative_to(self.out).as_posix() for path in self.out.rglob("*") if path.is_file())

    @property
    def errors(self):
        return self.stderr.getvalue().splitlines()


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


# --- what is written


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("length", [3, 7_001])
def test_stems_are_written_as_long_and_wide_as_the_song(bench, tmp_path, channels, length):
    wave = song(tmp_path / "song.wav", noise(length, channels))
    assert bench.separate(tmp_path / "song.wav") == 0
    assert bench.files() == sorted(f"song/{name}.wav" for name in SOURCES)
    for name, gain in zip(SOURCES, GAINS, strict=True):
        np.testing.assert_allclose(read(bench.out / "song" / f"{name}.wav"), wave * gain, atol=STEP)
    assert soundfile.info(bench.out / "song/vocals.wav").subtype == "PCM_24"


@pytest.mark.parametrize("rate", [5_512, 22_050, 96_000])
@pytest.mark.parametrize("clip", ["rescale", "clamp"])
def test_stems_keep_the_rate_of_the_song(bench, tmp_path, rate, clip):
    seconds = np.arange(rate // 2) / rate
    tone = np.sin(2 * np.pi * 440 * seconds) * np.hanning(rate // 2)
    wave = song(tmp_path / "song.wav", np.stack([tone, -tone], 1).astype(np.float32), rate)
    assert bench.separate(tmp_path / "song.wav", residual=True, encoding=Encoding.choose(clip=clip)) == 0
    stems = [soundfile.read(bench.out / path, always_2d=True) for path in bench.files()]
    assert all(found == rate for _, found in stems)
    np.testing.assert_allclose(sum(stem for stem, _ in stems), wave, atol=5 * STEP)
    vocals, _ = soundfile.read(bench.out / "song/vocals.wav")
    np.testing.assert_allclose(vocals, wave / 2, atol=1e-3)


def test_folders_are_searched_and_mirrored_and_the_model_is_loaded_once(bench, tmp_path):
    music = tmp_path / "Müsik 音楽"
    song(music / "a b.wav", noise(seed=1))
    song(music / "älbum" / "c.flac", noise(seed=2))
    song(music / "älbum" / "D.OGG", noise(seed=3))
    song(music / ".hidden.wav", noise())
    (music / "cover.jpg").write_bytes(b"jpeg")
    assert bench.separate(music, stems=("drums",)) == 0
    assert bench.files() == ["a b/drums.wav", "älbum/D/drums.wav", "älbum/c/drums.wav"]
    assert bench.loads == 1
    assert any("cover.jpg" in line and ".hidden.wav" in line for line in bench.said)
    assert any("cpu" in line and str(bench.run) in line for line in bench.said)


def test_a_song_named_twice_is_separated_once(bench, tmp_path):
    song(tmp_path / "in/song.wav", noise())
    assert bench.separate(tmp_path / "in", tmp_path / "in/song.wav") == 0
    assert len(bench.stdout.getvalue().splitlines()) == 1


def test_outputs_below_the_input_folder_are_no_songs(bench, tmp_path):
    song(tmp_path / "in/song.wav", noise())
    bench.out = tmp_path
    assert bench.separate(tmp_path / "in") == 0
    bench.out = tmp_path / "in/out"
    assert bench.separate(tmp_path / "in") == 0
    assert bench.separate(tmp_path / "in", force=True) == 0
    assert len(bench.files()) == 4


@pytest.mark.parametrize(
    ("format", "bits", "subtype", "tolerance"),
    [
        ("wav", "16", "PCM_16", 2**-15),
        ("wav", "32f", "FLOAT", 1e-7),
        ("flac", None, "PCM_24", STEP),
        ("flac", "16", "PCM_16", 2**-15),
        ("ogg", None, "VORBIS", 0.1),
        ("mp3", None, "MPEG_LAYER_III", 0.1),
    ],
)
def test_formats(bench, tmp_path, format, bits, subtype, tolerance):
    seconds = np.arange(12_345) / RATE
    wave = song(tmp_path / "song.wav", np.stack([np.sin(2000 * seconds)] * 2, 1).astype(np.float32))
    assert bench.separate(tmp_path / "song.wav", encoding=Encoding.choose(format, bits)) == 0
    path = bench.out / f"song/vocals.{format}"
    assert soundfile.info(path).subtype == subtype
    found = read(path)
    assert found.shape == wave.shape
    np.testing.assert_allclose(found, wave / 2, atol=tolerance)


def test_two_runs_give_the_same_bytes(bench, tmp_path):
    song(tmp_path / "song.wav", noise())
    options = {"force": True, "recipe": {"shifts": 2, "seed": 3}, "residual": True}

    def run():
        bench.separate(tmp_path / "song.wav", **options)
        return [(bench.out / path).read_bytes() for path in bench.files()]

    assert run() == run() and len(run()) == 5


# --- which stems


def test_two_stems_are_one_and_the_sum_of_the_others(bench, tmp_path):
    wave = song(tmp_path / "song.wav", noise())
    assert bench.separate(tmp_path / "song.wav", two_stems="drums") == 0
    assert bench.files() == ["song/drums.wav", "song/no_drums.wav"]
    np.testing.assert_allclose(read(bench.out / "song/drums.wav"), wave / 4, atol=STEP)
    np.testing.assert_allclose(read(bench.out / "song/no_drums.wav"), wave * (0.5 + 0.125 + 0.0625), atol=STEP)


def test_two_stems_of_a_model_of_one_source_are_what_it_leaves(bench, tmp_path):
    bench.use("vocals", (0.75,))
    wave = song(tmp_path / "song.wav", noise())
    assert bench.separate(tmp_path / "song.wav", two_stems="vocals") == 0
    np.testing.assert_allclose(read(bench.out / "song/no_vocals.wav"), wave / 4, atol=STEP)


@pytest.mark.parametrize("options", [{}, {"stems": ("bass", "other")}, {"two_stems": "vocals"}])
def test_with_the_residual_all_outputs_add_up_to_the_mix(bench, tmp_path, options):
    wave = song(tmp_path / "song.wav", noise(70_001))
    assert bench.separate(tmp_path / "song.wav", residual=True, **options) == 0
    stems = [read(bench.out / path) for path in bench.files()]
    np.testing.assert_allclose(sum(stems), wave, atol=5 * STEP)
    assert np.abs(read(bench.out / "song/residual.wav")).max() > 0.05


def test_choices_of_stems_that_cannot_be(bench, tmp_path):
    song(tmp_path / "song.wav", noise())
    for options, words in (
        ({"stems": ("vocal",)}, "did you mean 'vocals'"),
        ({"two_stems": "drum"}, "did you mean 'drums'"),
        ({"stems": ("",)}, "expected one of"),
    ):
        with pytest.raises(JaxsepError, match=words):
            bench.separate(tmp_path / "song.wav", **options)
    bench.use("vocals", (0.5,))
    with pytest.raises(JaxsepError, match="add up to the mixture already"):
        bench.separate(tmp_path / "song.wav", two_stems="vocals", residual=True)
    with pytest.raises(JaxsepError, match="of the name 'residual'"):
        choose_outputs(("residual", "vocals"), residual=True)
    assert bench.loads == 0 and not bench.out.exists()


# --- how loud


def test_rescale_turns_all_stems_of_a_song_down_by_one_gain(bench, tmp_path):
    bench.use("vocals,drums", (4.0, 1.0))
    loud = song(tmp_path / "loud.wav", noise(70_001))
    soft = song(tmp_path / "soft.wav", noise(level=0.2))
    assert bench.separate(tmp_path / "loud.wav", tmp_path / "soft.wav") == 0
    gain = 1 / np.abs(4 * loud).max()
    np.testing.assert_allclose(read(bench.out / "loud/vocals.wav"), 4 * loud * gain, atol=STEP)
    np.testing.assert_allclose(read(bench.out / "loud/drums.wav"), loud * gain, atol=STEP)
    np.testing.assert_allclose(read(bench.out / "soft/vocals.wav"), 4 * soft, atol=STEP)
    first, second = bench.stdout.getvalue().splitlines()
    assert f"turned down by {-20 * np.log10(gain):.1f} dB" in first and "turned" not in second


def test_clamp_cuts_off_and_says_so(bench, tmp_path):
    bench.use("vocals,drums", (4.0, 1.0))
    wave = song(tmp_path / "song.wav", noise())
    assert bench.separate(tmp_path / "song.wav", encoding=Encoding.choose(clip="clamp")) == 0
    np.testing.assert_allclose(read(bench.out / "song/vocals.wav"), (4 * wave).clip(-1, 1), atol=STEP)
    np.testing.assert_allclose(read(bench.out / "song/drums.wav"), wave, atol=STEP)
    assert f"{(np.abs(4 * wave) > 1).sum()} samples beyond full scale cut off" in bench.stdout.getvalue()


def test_none_keeps_floats_and_refuses_what_other_formats_would_clip(bench, tmp_path):
    bench.use("vocals,drums", (4.0, 1.0))
    wave = song(tmp_path / "song.wav", noise())
    assert bench.separate(tmp_path / "song.wav", encoding=Encoding.choose(clip="none")) == 1
    assert len(bench.errors) == 1 and "would clip" in bench.errors[0] and bench.files() == []
    assert Encoding.choose("wav", "32f").clip == "none"
    assert bench.separate(tmp_path / "song.wav", encoding=Encoding.choose("wav", "32f")) == 0
    np.testing.assert_allclose(read(bench.out / "song/vocals.wav"), 4 * wave, rtol=1e-6)


def test_encodings_that_do_not_exist():
    for arguments, words in (
        (("wma",), "--format='wma' is unknown"),
        (("flac", "32f"), "--bits 32f does not go with --format flac; expected 16 or 24"),
        (("mp3", "16"), "no bit depth"),
    ):
        with pytest.raises(JaxsepError, match=words):
            Encoding.choose(*arguments)


# --- under which names


def test_templates(bench, tmp_path):
    song(tmp_path / "a.wav", noise())
    song(tmp_path / "a.flac", noise())
    assert (
        bench.separate(
            tmp_path / "a.wav",
            tmp_path / "a.flac",
            stems=("bass",),
            filename="{model}/{stem} of {track}-{suffix}.{ext}",
        )
        == 0
    )
    assert bench.files() == ["a run/bass of a-flac.wav", "a run/bass of a-wav.wav"]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{trak}/{stem}.{ext}", "did you mean 'track'"),
        ("{}/{stem}.{ext}", "--filename"),
        ("{track/{stem}.{ext}", "--filename"),
        ("{track.name}/{stem}.{ext}", "--filename"),
        ("{track:>9}/{stem}.{ext}", "no format"),
        ("../{track}/{stem}.{ext}", "out of the output folder"),
        ("/{track}/{stem}.{ext}", "out of the output folder"),
        ("{track}/{stem}", "must end in"),
        ("{track}/{stem}.mp3", "must end in"),
    ],
)
def test_templates_that_make_no_sense(template, words):
    with pytest.raises(JaxsepError, match=words):
        name_output(template, track="t", stem="s", ext="wav", suffix="mp3", model="m")


def test_a_template_is_checked_before_any_file(bench, tmp_path):
    with pytest.raises(JaxsepError, match="did you mean 'stem'"):
        bench.separate(tmp_path / "missing.wav", filename="{track}/{sten}.{ext}")
    assert bench.errors == []


def test_two_outputs_of_one_name_stop_everything(bench, tmp_path):
    song(tmp_path / "a.wav", noise())
    song(tmp_path / "a.flac", noise())
    with pytest.raises(JaxsepError, match=r"a\.wav and .*a\.flac would be written there"):
        bench.separate(tmp_path / "a.wav", tmp_path / "a.flac")
    with pytest.raises(JaxsepError, match="several stems"):
        bench.separate(tmp_path / "a.wav", filename="{track}.{ext}")
    assert bench.loads == 0 and not bench.out.exists()


def test_existing_files_are_left_alone_without_force(bench, tmp_path):
    song(tmp_path / "a.wav", noise(seed=1))
    song(tmp_path / "b.wav", noise(seed=2))
    (bench.out / "b").mkdir(parents=True)
    (bench.out / "b/bass.wav").write_text("precious")
    with pytest.raises(JaxsepError, match=r"b/bass\.wav exist.* --force"):
        bench.separate(tmp_path / "a.wav", tmp_path / "b.wav")
    assert bench.loads == 0 and bench.files() == ["b/bass.wav"]
    assert (bench.out / "b/bass.wav").read_text() == "precious"
    assert bench.separate(tmp_path / "a.wav", tmp_path / "b.wav", force=True) == 0
    assert len(bench.files()) == 8 and soundfile.info(bench.out / "b/bass.wav").frames == 5_000


def test_an_input_is_never_replaced(bench, tmp_path):
    bench.out = tmp_path / "in"
    wave = song(tmp_path / "in/vocals.wav", noise())
    with pytest.raises(JaxsepError, match="would be replaced"):
        bench.separate(tmp_path / "in/vocals.wav", filename="{stem}.{ext}", force=True)
    np.testing.assert_array_equal(read(tmp_path / "in/vocals.wav"), wave)


# --- bad input


def test_bad_files_are_named_and_the_others_are_done(bench, tmp_path):
    wave = noise()
    song(tmp_path / "good 1.wav", wave)
    song(tmp_path / "good 2.wav", wave)
    (tmp_path / "zero.wav").touch()
    (tmp_path / "garbage.wav").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "garbage.mp3").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "text.txt").write_text("hello")
    song(tmp_path / "nan.wav", np.where(np.arange(5_000)[:, None] == 3_000, np.nan, wave))
    song(tmp_path / "whole.wav", wave)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "whole.wav").read_bytes()[:-9_000])
    song(tmp_path / "whole.flac", wave)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "whole.flac").read_bytes()[:-9_000])
    (tmp_path / "empty folder").mkdir()
    bad = [
        "zero.wav", "garbage.wav", "garbage.mp3", "text.txt", "nan.wav", "cut.wav", "cut.flac", "missing é.wav",
        "empty folder",
    ]  # fmt: skip
    names = ["good 1.wav", *bad, "good 2.wav"]
    assert bench.separate(*(tmp_path / name for name in names)) == len(bad)
    assert len(bench.errors) == len(bad)
    for name in bad:
        (line,) = [line for line in bench.errors if str(tmp_path / name) in line]
        assert line.startswith("jaxsep: error: ") and "Traceback" not in line
    assert bench.files() == [f"good {n}/{name}.wav" for n in (1, 2) for name in sorted(SOURCES)]
    assert [path.name for path in bench.out.iterdir()] in (["good 1", "good 2"], ["good 2", "good 1"])


def test_when_nothing_can_be_read_nothing_is_loaded(bench, tmp_path):
    assert bench.separate(tmp_path / "missing.wav") == 1
    assert bench.loads == 0 and not bench.out.exists()


def test_an_unwritable_folder_is_found_before_the_work(bench, tmp_path):
    song(tmp_path / "song.wav", noise())
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file/below", Path("/proc/nowhere")):
        bench.out = out
        with pytest.raises(JaxsepError, match=f"{out}: cannot write there"):
            bench.separate(tmp_path / "song.wav")
    assert bench.loads == 0


def test_the_encoder_is_tried_before_the_work(bench, tmp_path):
    song(tmp_path / "song.wav", noise(), rate=96_000)
    with pytest.raises(JaxsepError, match=r"song\.wav: mp3 cannot hold 96000 Hz"):
        bench.separate(tmp_path / "song.wav", encoding=Encoding.choose("mp3"))
    song(tmp_path / "six.wav", noise(channels=6))
    with pytest.raises(JaxsepError, match="mp3 holds at most 2 channels"):
        bench.separate(tmp_path / "six.wav", encoding=Encoding.choose("mp3"))
    assert bench.loads == 0 and not bench.out.exists()


@pytest.mark.parametrize("bits", ["24", "32f"])
def test_a_full_disk_fails_the_song_and_keeps_the_finished_ones(bench, tmp_path, bits):
    """A limit on the size of files stands for the disk: the same failing write."""
    song(tmp_path / "short.wav", noise(2_000))
    song(tmp_path / "long.wav", noise(400_000))
    song(tmp_path / "short too.wav", noise(2_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        inputs = [tmp_path / f"{name}.wav" for name in ("short", "long", "short too")]
        assert bench.separate(*inputs, encoding=Encoding.choose("wav", bits)) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(bench.errors) == 1 and str(tmp_path / "long.wav") in bench.errors[0]
    assert sorted(path.name for path in bench.out.iterdir()) == ["short", "short too"]
    assert len(bench.files()) == 8


def test_an_interrupted_song_leaves_nothing_behind(bench, tmp_path, monkeypatch):
    song(tmp_path / "one.wav", noise())
    song(tmp_path / "two.wav", noise(50_000))
    calls = itertools.count()

    def interrupted(self, done):
        if self._file.endswith("two.wav") and next(calls) > 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.separate(tmp_path / "one.wav", tmp_path / "two.wav")
    assert [path.name for path in bench.out.iterdir()] == ["one"] and len(bench.files()) == 4


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device")])
def test_what_the_system_refuses_is_one_line(bench, tmp_path, monkeypatch, error):
    def refuse(*_):
        raise error

    song(tmp_path / "song.wav", noise())
    monkeypatch.setattr(songs, "_outputs", refuse)
    assert bench.separate(tmp_path / "song.wav") == 1
    words = "MemoryError" if isinstance(error, MemoryError) else "No space left on device"
    assert bench.errors == [f"jaxsep: error: {tmp_path / 'song.wav'}: {words}"]


def test_a_run_folder_that_is_none(bench, tmp_path):
    bench.run = tmp_path
    with pytest.raises(JaxsepError, match="not a run folder"):
        bench.separate(tmp_path / "song.wav")


def test_a_device_that_is_not_there(bench, tmp_path):
    with pytest.raises(JaxsepError, match="device='gpu:1'"):
        bench.separate(tmp_path / "song.wav", device="gpu:1")


# --- progress


def test_progress_as_json(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxsep.progress.INTERVAL", 0.0)
    song(tmp_path / "sóng.wav", noise(4 * RATE))
    bench.separate(tmp_path / "sóng.wav", tmp_path / "missing.wav", progress="json")
    lines = [json.loads(line) for line in bench.stdout.getvalue().splitlines()]
    failed, *running, done = lines
    assert failed["state"] == "failed" and "missing.wav" in failed["error"]
    assert {line["file"] for line in [*running, done]} == {str(tmp_path / "sóng.wav")}
    fractions = [line["fraction"] for line in running]
    assert fractions[0] == 0 and fractions[-1] == 1 and fractions == sorted(fractions) and len(fractions) > 10
    assert all(line["total_seconds"] == 4 and line["state"] == "running" for line in running)
    assert done["state"] == "done" and done["fraction"] == 1 and len(done["outputs"]) == 4
    assert all(Path(path).is_file() for path in done["outputs"])


def test_progress_on_a_terminal_and_in_a_log(monkeypatch):
    monkeypatch.setattr("jaxsep.progress.INTERVAL", 0.0)

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for err, shown in ((Terminal(), True), (io.StringIO(), False)):
        progress = Progress("auto", io.StringIO(), err)
        progress.start("a.wav", 200.0)
        progress.update(84.0)
        assert ("42 %" in err.getvalue()) is shown
        progress.start("stream.mp3", None)
        progress.update(84.0)
        assert ("1:24" in err.getvalue()) is shown
    assert clock(3725.0) == "1:02:05" and clock(59.7) == "1:00"


# --- memory


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """A run folder with a small random Spleeter of two sources at 44.1 kHz."""
    config = configs.load_config("configs/spleeter.py:2stems")
    with config.unlocked():
        config.model.channels = (2, 4)
        config.block = 64
        config.inference.segment = 64 * 1024 / 44_100
    net = separator.build(config)
    mix = jax.ShapeDtypeStruct((1, 8_192, 2), jnp.float32)
    shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, None, False), mix)
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: random.uniform(0.1, 0.5, leaf.shape).astype(np.float32), shapes)
    run = tmp_path_factory.mktemp("tiny run")
    (run / "config.json").write_text(configs.to_json(config))
    with Checkpoints(run) as checkpoints:
        checkpoints.save(1, dict(variables), {})
    return run


def peak_of(run, folder, seconds):
    """Peak memory in MB of `jaxsep separate` on a stereo song at 44.1 kHz, in a process of its own."""
    path = folder / f"{seconds}.wav"
    with soundfile.SoundFile(path, "w", 44_100, 2, "PCM_16") as file:
        for _ in range(0, seconds, 10):
            file.write(noise(441_000))
    # The high-water mark of this process image alone: ru_maxrss also counts what the parent held at the fork.
    code = (
        "import re, sys; from jaxsep import cli; status = cli.main(sys.argv[1:]); "
        "print(status, re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    command = [sys.executable, "-c", code, "separate", path, "-o", folder / "out", "-m", run, "--residual"]
    # One arena: how many glibc makes depends on how its threads meet, tens of MB from one run to the next.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    path.unlink()
    status, peak = done.stdout.splitlines()[-1].split()
    assert status == "0", done.stderr
    for stem in ("vocals", "accompaniment", "residual"):
        output = folder / f"out/{seconds}/{stem}.wav"
        assert soundfile.info(output).frames == seconds * 44_100
        output.unlink()
    return int(peak) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads the high-water mark from /proc")
@pytest.mark.parametrize(
    ("short", "long", "more"), [(20, 200, 30), pytest.param(120, 3_600, 150, marks=pytest.mark.full)]
)
def test_memory_does_not_grow_with_the_song(tiny_run, tmp_path, short, long, more):
    """Of the longer song, the input alone is 64 MB of floats more (3 minutes), or 1,227 MB (58 minutes).

    What XLA's threads hold at once differs by up to 60 MB from one run to the next; growth would be there in each.
    """
    tries = (peak_of(tiny_run, tmp_path, long) - peak_of(tiny_run, tmp_path, short) for _ in range(3))
    assert any(growth < more for growth in tries)
