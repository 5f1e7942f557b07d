"""The page tells what the run folder holds, stands on its own, and its pictures show what was heard."""

import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

import jaxsep
from jaxsep import cli
from jaxsep import tables as published
from jaxsep.config import from_json, load_config, parse_sources, to_json
from jaxsep.errors import JaxsepError
from jaxsep.log import read_metrics
from jaxsep.metrics.aggregate import PROTOCOLS, table
from jaxsep.metrics.sdr import framewise_sdr
from jaxsep.report import boxes, command, tables
from jaxsep.report.clips import encode
from jaxsep.report.curves import draw_curves
from jaxsep.report.listening import separated_songs
from jaxsep.report.page import write_page
from jaxsep.report.panels import draw_panel, spectrogram
from jaxsep.report.runs import read_runs
from jaxsep.report.song import Song

RATE = 22050
SOURCES = ("vocals", "drums", "bass", "other")
TITLE = 'A & B <i>声</i> "quoted" $title'


def column(first: float) -> dict[str, float | None]:
    return {name: round(first + 0.01 * k, 2) for k, name in enumerate((*SOURCES, "average"))}


SUMMARY = {
    "system": "spleeter:demo",
    "checkpoint": {"step": 600, "valid_sdr": 5.4},
    "data": {"source": "builtin", "root": "the built-in songs", "split": "test"},
    "mixture": "sum",
    "rate": 44100,
    "tracks": ["one", "two"],
    "tracks_in_split": 6,
    "command": "python eval.py --workdir=runs/demo",
    "scored_together": [list(SOURCES)],
    "missing": {"ISR, SIR, SAR": "museval cannot be used (ffmpeg < 0)"},
    "failed": {"song <7>": "torn"},
    "silent": {"two": {"references": ["bass"]}},
    "protocols": {key: ": ".join(PROTOCOLS[key]) for key in ("sdr_median_of_medians", "si_sdr")},
    "scores": {"sdr_median_of_medians": column(6.21), "si_sdr": column(4.43) | {"bass": None}},
    "intervals": {"sdr_median_of_medians": {s: [5.5, 7.25] for s in (*SOURCES, "average")} | {"drums": [None, None]}},
    "baselines": {"scaled mixture": {"sdr_median_of_medians": column(1.31)},
                  "IRM1 (oracle)": {"sdr_median_of_medians": column(8.77)}},
}  # fmt: skip


def score_file(first: float) -> dict:
    """Three seconds of scores with the median `first` + 1 in every source, the baselines' one dB below."""
    frames = [{"metrics": {"SDR": value}} for value in (first, first + 5, first + 1)]
    baselines = {name: {source: [first] for source in SOURCES} for name in SUMMARY["baselines"]}
    return {"targets": [{"name": s, "frames": frames} for s in SOURCES], "jaxsep": {"baselines": baselines}}


def make_run(folder, spec="configs/spleeter.py:demo", first=2.0, **changes):
    """A run folder as training and scoring leave it; `changes` are of the summary."""
    scores = folder / "scores" / "test"
    scores.mkdir(parents=True)
    config = load_config(spec)
    config.steps = 600
    (folder / "config.json").write_text(to_json(config))
    summary = SUMMARY | changes
    (scores / "summary.json").write_text(json.dumps(summary))
    for number, track in enumerate(summary["tracks"]):
        (scores / f"{track}.json").write_text(json.dumps(score_file(first + number)))
    (folder / "run.json").write_text(
        json.dumps({"command": "python train.py --x='<y>'", "versions": {"jax": "0.10.2"}})
    )
    lines = []
    for step in range(100, 700, 100):
        lines.append({"step": step, "kind": "train", "loss": 700 / step, "time": {"seconds": 60.0}})
        sdr = {f"sdr/{source}": step / 100 + k for k, source in enumerate(SOURCES)}
        if step % 200 == 0:
            lines.append({"step": step, "kind": "valid", "loss": 800 / step, "sdr": step / 100, **sdr, "time": {}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run é $x")


def make_song(channels: int = 2, seconds: float = 1.5, **fields) -> Song:
    """Two tones of 500 and 4,000 Hz that are not separated well."""
    time = np.arange(int(RATE * seconds))[:, None] / RATE
    low, high = (np.repeat(0.4 * np.sin(2 * np.pi * hertz * time), channels, axis=1) for hertz in (500, 4000))
    fields = {"references": {"low": low, "high": high}, "name": "Tones"} | fields
    estimates = {"a net": {"low": low + 0.02 * high, "high": 0.5 * high}}
    return Song(rate=RATE, mixture=low + high, estimates=estimates, **fields)


def write(run, songs=(), title="t", **options):
    return write_page([run], run / "report", songs=list(songs), title=title, **options)


def decoded(url: str) -> tuple[np.ndarray, int]:
    kind, data = url.split(";base64,")
    assert kind.startswith("data:audio/")
    return soundfile.read(BytesIO(b64decode(data)), always_2d=True)


def clips_of(page) -> dict[tuple[str, str], np.ndarray]:
    """The clips of a page with one song."""
    clips = [values for tag, values in page.attributes if tag == "audio"]
    return {(clip["data-deck"], clip["data-source"]): decoded(clip["src"])[0] for clip in clips}


class Page(HTMLParser):
    """What a page refers to, its visible text, and whether its tags close in order."""

    def __init__(self, path):
        super().__init__()
        self.links, self.text, self.ids, self.open = [], [], [], []
        self.attributes = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "input", "link", "br", "wbr"):
            self.open.append(tag)
        values = dict(attrs)
        self.attributes.append((tag, values))
        self.links += [values[key] for key in ("src", "href", "srcset", "poster", "action") if key in values]
        self.ids += [values["id"]] if "id" in values else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    @property
    def labels(self) -> str:
        return " ".join(values.get("aria-label", "") for _, values in self.attributes)

    @property
    def shown(self) -> str:
        return " ".join("".join(self.text).split())


SVG = "{http://www.w3.org/2000/svg}"


def pictures(path) -> list[np.ndarray]:
    """The spectrograms inside an SVG, top to bottom, as they stand on the screen."""
    images = []
    for image in ElementTree.parse(path).getroot().iter(f"{SVG}image"):
        data = image.get("{http://www.w3.org/1999/xlink}href").split(",")[1]
        pixels = imread(BytesIO(b64decode("".join(data.split()))))[..., :3]
        if matrix := re.fullmatch(r"matrix\((.*)\)", image.get("transform")):  # the colour bar has none
            images.append(pixels[::-1] if float(matrix[1].split()[3]) < 0 else pixels)
    return images


def rows_of(source: str) -> list[dict[str, list[str]]]:
    """The tables of a page, and the parts of those with headings: row -> cells."""
    parts = re.split(r"<tbody>|<tr class=.heading.*", source)[1:]
    return [
        {name.replace("<wbr>", ""): re.findall(r"<td>(.*?)</td>", cells) for name, cells in rows}
        for rows in (re.findall(r'<tr[^>]*><th scope="row">(.*?)</th>(.*?)</tr>', part) for part in parts)
        if rows
    ]


def test_page_stands_alone_and_tells_the_scores(run):
    page_path = write(
        run, [make_song(name="Låt 1 <b>"), make_song(1, name="two", references=None)], TITLE,
        notes=["narrow & quick"], commands=["make demo && echo '<done>'"],
    )  # fmt: skip
    page = Page(page_path)

    assert page_path == run / "report" / "index.html"
    assert not page.open and len(page.ids) == len(set(page.ids))
    present = {path.relative_to(run / "report").as_posix() for path in (run / "report").rglob("*") if path.is_file()}
    files = {unquote(link) for link in page.links if not link.startswith("data:audio/")}
    assert files | {"index.html"} == present
    source = page_path.read_text(encoding="utf-8")
    assert not re.search(r"(src|href|url\(|@import|fetch\()\W*(https?:)?//", source)

    assert "| vocals " in table(SUMMARY)  # the summary is one that eval.py's own table takes
    assert page.shown.startswith(TITLE) and "Låt 1 <b>" in page.shown
    assert "narrow & quick" in page.shown and "make demo && echo '<done>'" in page.shown
    first, second = rows_of(source)
    captions = re.findall(r'<p class="caption">(.*?)</p>|<th scope="rowgroup"[^>]*>(.*?)</th>', source)
    assert captions[0][0].startswith("SDR (median), in dB") and captions[2][1] == PROTOCOLS["si_sdr"][0]
    assert first["spleeter:demo, step 600"] == ["6.21", "6.22", "6.23", "6.24", "6.25"]
    assert first["95 % interval"][:2] == ["5.50 to 7.25", "n/a to n/a"]
    assert first["scaled mixture"][0] == "1.31" and first["IRM1 (oracle)"][-1] == "8.81"
    assert second == {"spleeter:demo, step 600": ["4.43", "4.44", "n/a", "4.46", "4.47"]}
    for words in (PROTOCOLS["sdr_median_of_medians"][1], "ffmpeg < 0", "song <7>", "2 of the 6 test songs", "0:06:00",
                  "silent throughout in two",
                  "made by a generator", "600 of 600"):  # fmt: skip
        assert words in page.shown, words


def test_every_clip_is_playable_and_named(run):
    song = make_song()
    write(run, [song, make_song(1, references=None)])
    page = Page(run / "report" / "index.html")
    clips = [values for tag, values in page.attributes if tag == "audio"]

    assert [(clip["data-deck"], clip["data-source"]) for clip in clips] == [
        ("mixture", ""), ("run-1", "low"), ("reference", "low"), ("run-1", "high"), ("reference", "high"),
        ("mixture", ""), ("run-1", "low"), ("run-1", "high"),
    ]  # fmt: skip
    assert all("controls" in clip and clip["aria-label"] for clip in clips)  # usable without the script
    assert all(values["alt"] for tag, values in page.attributes if tag == "img")
    radios = [values["value"] for tag, values in page.attributes if tag == "input" and values["type"] == "radio"]
    assert radios == ["mixture", "run-1", "reference", "mixture", "run-1"]
    for clip, wave in zip(clips, song.waves().values(), strict=False):
        heard, rate = decoded(clip["src"])
        assert rate == RATE
        np.testing.assert_allclose(heard, wave, atol=2 / 32768)
    assert "SDR of this clip" in page.shown
    assert re.search(r"high .*?6\.0 dB", page.shown) and re.search(r"low .*?34\.0 dB", page.shown)  # 20 log10 of 2, 50


def test_loud_songs_are_turned_down_together(run):
    song = make_song()
    estimate = 8 * song.estimates["a net"]["low"]
    loud = Song("loud", RATE, 4 * song.mixture, {"a net": {"low": estimate}})
    clips = clips_of(page := Page(write(run, [loud])))
    peak = np.abs(estimate).max()
    np.testing.assert_allclose(clips["run-1", "low"], estimate / peak, atol=2 / 32768)
    np.testing.assert_allclose(clips["mixture", ""], loud.mixture / peak, atol=2 / 32768)
    assert f"turned down by {20 * np.log10(peak):.1f} dB" in page.shown


@pytest.mark.parametrize(("format", "size"), [("flac", 1.0), ("mp3", 0.6), ("opus", 0.6)])
def test_clips_hold_the_wave_in_its_place(format, size):
    """The first channel of a decoded clip lies where it lay: lossy formats are trimmed of their delay."""
    noise = np.random.default_rng(0).normal(size=(2 * RATE, 2)) * np.hanning(2 * RATE)[:, None]
    wave = 0.2 * np.apply_along_axis(np.convolve, 0, noise, np.ones(20) / 4, mode="same")
    clip = encode(wave, RATE, format)
    assert clip.rate == (48000 if format == "opus" else RATE)
    assert clip.bytes < size * wave.size * 2
    heard, rate = decoded(clip.url)
    assert rate == clip.rate and heard.shape[1] == 2
    back = jaxsep.audio.resample(heard.astype(np.float32), rate, RATE)[: len(wave), 0]
    shift = np.argmax(np.correlate(back, wave[2000:-2000, 0], mode="valid")) - 2000
    assert shift == 0 and abs(len(heard) / rate - 2) < 0.06


def test_clips_of_other_formats_are_refused(run):
    with pytest.raises(JaxsepError, match="clips='wav': expected flac, mp3, opus"):
        write(run, [make_song()], clips="wav")
    with pytest.raises(JaxsepError, match="mp3 cannot hold 96000 Hz"):
        encode(np.zeros((96, 1)), 96000, "mp3")


@pytest.mark.parametrize("name", ["声 & <b>", "a/../b", "_low", "$x^2$ %s"])
def test_names_of_any_kind(run, name):
    song = make_song(1)
    estimates, references = {name: {name: song.estimates["a net"]["low"]}}, {name: song.references["low"]}
    page = Page(write(run, [Song(name, RATE, song.mixture, estimates, references, note=name)], name))
    assert page.shown.count(name) >= 5
    links = [run / "report" / unquote(link) for link in page.links if not link.startswith("data:audio/")]
    assert {link.resolve().parent for link in links} == {
        (run / "report").resolve(), (run / "report" / "song-1").resolve()
    }  # fmt: skip
    assert all(link.is_file() for link in links)
    (stem,) = (values for tag, values in page.attributes if values.get("class") == "stem")
    assert stem["data-source"] == name and list(json.loads(stem["data-sdr"])) == ["run-1"]
    svg = next((run / "report" / "song-1").glob("*.svg"))
    assert f"estimate: {name}" in "".join(ElementTree.parse(svg).getroot().itertext())


def test_a_run_without_scores_or_metrics_says_so(run):
    (run / "scores" / "test" / "summary.json").unlink()
    (run / "metrics.jsonl").unlink()
    shown = Page(write(run)).shown
    assert "No scores of test songs yet" in shown and "Nothing is measured yet" in shown
    assert "python train.py --x='<y>'" in shown  # the command of run.json


def test_a_failing_page_leaves_the_old_one(run):
    old = write(run, [make_song()], "old").read_bytes()
    song = make_song()
    short = Song("short", RATE, song.mixture, {"a net": {"low": song.mixture[:-1]}})
    broken = Song("nan", RATE, song.mixture, {"a net": {"low": song.mixture * np.nan}})
    for bad, words in ((short, "short: a net low is"), (broken, "nan: a net low has NaN")):
        with pytest.raises(JaxsepError, match=words):
            write(run, [make_song(), bad], "new")
    (run / "scores" / "test" / "summary.json").write_text("{")
    with pytest.raises(JaxsepError, match=r"summary\.json: damaged"):
        write(run, title="new")
    assert (run / "report" / "index.html").read_bytes() == old
    assert {path.name for path in run.iterdir()} == {"config.json", "run.json", "metrics.jsonl", "scores", "report"}


def test_the_same_page_twice_is_the_same_bytes(run):
    def contents():
        write(run, [make_song()])
        return {path.name: path.read_bytes() for path in (run / "report").rglob("*") if path.is_file()}

    assert contents() == contents()


def test_panels_show_what_differs(tmp_path):
    song = make_song()
    images = pictures(draw_panel(song, "high", tmp_path / "high.svg"))
    assert len({image.shape for image in images}) == 1
    rows = dict(zip(("mix", "ref", "est", "error"), (image.mean(axis=(1, 2)) for image in images), strict=True))
    # Rows go from high to low on a logarithmic axis from 40 Hz to 11,025 Hz.
    place = {hertz: int(len(images[0]) * np.log2(RATE / 2 / hertz) / np.log2(RATE / 2 / 40)) for hertz in (500, 4000)}
    assert abs(int(rows["ref"].argmax()) - place[4000]) <= 2
    bright = {name: [row[place[hertz] - 2 : place[hertz] + 3].max() for hertz in place] for name, row in rows.items()}
    assert bright["mix"][0] > bright["ref"][0] + 0.2  # the low tone is in the mixture alone
    assert bright["mix"][1] == pytest.approx(bright["ref"][1], abs=0.02)  # one scale: the same tone, the same colour
    assert bright["est"][1] < bright["ref"][1] - 0.02  # 6 dB less is darker
    assert bright["error"] == pytest.approx(bright["est"], abs=0.01)  # half is missing, as much as is there
    with pytest.raises(JaxsepError, match="no estimate of 'drums'; there are low, high"):
        draw_panel(song, "drums", tmp_path / "drums.svg")


def test_spectrogram_levels_and_extent():
    time = np.arange(RATE * 2)[:, None] / RATE
    tone = np.where(time < 1, np.sin(2 * np.pi * 1000 * time), 0.1 * np.sin(2 * np.pi * 1000 * time))
    power = spectrogram(tone, RATE)
    first, second = power[:, power.shape[1] // 4], power[:, 3 * power.shape[1] // 4]
    assert 10 * np.log10(first.max() / second.max()) == pytest.approx(20, abs=0.1)
    assert spectrogram(np.repeat(tone, 2, axis=1), RATE) == pytest.approx(power)
    assert np.isfinite(spectrogram(tone[:3], RATE)).all()
    long = spectrogram(np.tile(tone, (40, 1)), RATE)
    assert long.shape[1] <= 480 and long.sum(axis=0).std() > 0.1 * long.sum(axis=0).mean()


def test_silence_is_drawn(tmp_path):
    silent = np.zeros((RATE, 1))
    song = Song("silent", RATE, silent, {"a net": {"low": silent}}, {"low": silent})
    images = pictures(draw_panel(song, "low", tmp_path / "p.svg"))
    assert len(images) == 4 and all(np.ptp(image) < 0.02 for image in images)


def curve_points(path) -> tuple[list[list[tuple[float, float]]], dict[float, float]]:
    """The lines of an SVG as points, and where each step's tick stands, both in its coordinates."""
    groups = [group for group in ElementTree.parse(path).getroot().iter(f"{SVG}g") if group.get("id")]
    paths = [
        p for g in groups if g.get("id").startswith("line2d") for p in g.findall(f"{SVG}path") if p.get("clip-path")
    ]
    ticks = [group for group in groups if group.get("id").startswith("xtick")]
    places = {float("".join(tick.itertext())): float(next(tick.iter(f"{SVG}use")).get("x")) for tick in ticks}
    return [[tuple(map(float, xy)) for xy in re.findall(r"([-\d.]+) ([-\d.]+)", p.get("d"))] for p in paths], places


def test_curves_use_the_steps(run, tmp_path):
    path = draw_curves({"a net": read_metrics(run / "metrics.jsonl")}, tmp_path / "sdr.svg", ("sdr",))
    lines, ticks = curve_points(path)
    (low, at_low), *_, (high, at_high) = sorted(ticks.items())

    def step(x):
        return low + (x - at_low) / (at_high - at_low) * (high - low)

    drawn = [[step(x) for x, _ in points] for points in lines if len(points) == 3]
    assert len(drawn) == 1 + len(SOURCES)
    for steps in drawn:
        assert steps == pytest.approx([200, 400, 600], abs=1)
    texts = "".join(ElementTree.parse(path).getroot().itertext())
    assert all(word in texts for word in ("step", "SDR (dB)", "validation", *SOURCES))
    assert "prefers-color-scheme" in texts and "#010203" not in path.read_text()


def test_curves_without_values(run, tmp_path):
    with pytest.raises(JaxsepError, match="no line has 'si_sdr' yet"):
        draw_curves({"a net": read_metrics(run / "metrics.jsonl")}, tmp_path / "x.svg", ("si_sdr",))
    both = draw_curves({"a net": read_metrics(run / "metrics.jsonl")}, tmp_path / "both.svg")
    assert "training" in both.read_text()


def test_curves_of_several_runs(run, tmp_path):
    """Each run has its own line over its own steps; sources are left out."""
    records = read_metrics(run / "metrics.jsonl")
    longer = [record | {"step": 2 * record["step"]} for record in records]
    path = draw_curves({"a": records, "b <2>": longer}, tmp_path / "sdr.svg", ("sdr",))
    lines, ticks = curve_points(path)
    (low, at_low), *_, (high, at_high) = sorted(ticks.items())
    drawn = [[low + (x - at_low) / (at_high - at_low) * (high - low) for x, _ in points] for points in lines]
    drawn = [steps for steps in drawn if len(steps) == 3]
    assert drawn == [pytest.approx([200, 400, 600], abs=3), pytest.approx([400, 800, 1200], abs=3)]
    texts = "".join(ElementTree.parse(path).getroot().itertext())
    assert "a, validation" in texts and "b <2>, validation" in texts and "vocals" not in texts


def test_runs_stand_in_one_table_where_they_were_scored_alike(tmp_path):
    learned = {name: dict(row) for name, row in SUMMARY["baselines"].items()}
    learned["fixed equaliser"] = {"sdr_median_of_medians": column(2.5)}
    other = learned | {"fixed equaliser": {"sdr_median_of_medians": column(3.5)}}
    runs = [
        make_run(tmp_path / "x" / "net", baselines=learned),
        make_run(tmp_path / "y" / "net", scores={"sdr_median_of_medians": column(7.0)}, baselines=other),
        make_run(tmp_path / "z", "configs/open_unmix.py:demo", tracks=["one"], scores=SUMMARY["scores"]),
    ]
    source = write_page(runs, tmp_path / "out", songs=[], title="t").read_text(encoding="utf-8")
    first, second, third, *_ = rows_of(source)
    assert [name for name in first if "interval" not in name] == [
        "spleeter:demo (x/net), step 600", "spleeter:demo (y/net), step 600", "scaled mixture", "IRM1 (oracle)",
        "fixed equaliser", "fixed equaliser (spleeter:demo (y/net))",
    ]  # fmt: skip
    assert [first[name][0] for name in first if "interval" not in name] == [
        "6.21",
        "7.00",
        "1.31",
        "8.77",
        "2.50",
        "3.50",
    ]
    assert list(second) == ["spleeter:demo (x/net), step 600"]  # the other has no SI-SDR
    assert "open_unmix:demo, step 600" in third and not any("spleeter" in name for name in third)
    shown = Page(tmp_path / "out" / "index.html").shown
    assert "each part stands for itself" in shown and "1 of the 6 test songs" in shown
    assert "spleeter:demo (y/net) 7.04 dB, spleeter:demo (x/net) 6.25 dB; open_unmix:demo 6.25 dB" in shown


@pytest.mark.parametrize(
    "changes",
    [{"data": SUMMARY["data"] | {"root": "MUSDB18"}}, {"data": SUMMARY["data"] | {"split": "valid"}},
     {"mixture": "original"}, {"rate": 16000}, {"scored_together": [["vocals", "drums", "bass"], ["other"]]}],
)  # fmt: skip
def test_what_was_scored_otherwise_is_not_mixed_in(tmp_path, changes):
    paths = [make_run(tmp_path / "a"), make_run(tmp_path / "b"), make_run(tmp_path / "c", **changes)]
    groups = tables.scored_alike(read_runs(paths, "test"))
    assert [[run.folder.name for run in group] for group in groups] == [["a", "b"], ["c"]]


def test_boxes_are_the_medians_of_tracks(run, tmp_path):
    better = make_run(tmp_path / "better", "configs/open_unmix.py:demo", first=4.0)
    group = read_runs([run, better], "test")
    rows = boxes.boxes(group, "drums", {"spleeter:demo": "#ff0000", "open_unmix:demo": "#00ff00"})
    assert [(row.name, row.scores.tolist(), row.colour) for row in rows] == [
        ("open_unmix:demo", [5, 6], "#00ff00"), ("spleeter:demo", [3, 4], "#ff0000"),
        ("scaled mixture", [2, 3], ""), ("IRM1 (oracle)", [2, 3], ""),
    ]  # fmt: skip
    path = boxes.draw_boxes(rows, "drums", tmp_path / "boxes.svg")
    texts = [
        text for text in ElementTree.parse(path).getroot().itertext() if text.strip() in {row.name for row in rows}
    ]
    assert texts == [row.name for row in rows] and "SDR of drums (dB)" in path.read_text()
    shown = Page(write(run)).shown
    assert "SiSEC 2018 are not here: they were scored on MUSDB18's test songs" in shown


def test_sisec_stands_behind_runs_on_its_songs(tmp_path):
    songs = sorted({score.track for score in published.sisec18()})
    assert len(songs) == 50
    run = make_run(tmp_path / "run", tracks=songs, tracks_in_split=50, first=0.0)
    (read,) = read_runs([run], "test")
    rows = boxes.boxes([read], "vocals", {"spleeter:demo": "#ff0000"})
    field = {row.name: row for row in rows if row.field}
    assert len(field) == 31 and all(len(row.scores) == 50 for row in field.values())
    # Stöter, Liutkus and Ito 2018, recomputed: the median over the songs of 2DFT's medians of vocals.
    assert field["2DFT"].median == pytest.approx(0.561, abs=5e-4)
    assert [row.median for row in rows] == sorted((row.median for row in rows), reverse=True)
    assert len([row for row in boxes.boxes([read], "drums", {"spleeter:demo": "#ff0000"}) if row.field]) < 31

    shown = Page(write(run)).shown
    assert "31 systems of SiSEC 2018 on these songs" in shown and "released mixtures" in shown
    few = make_run(tmp_path / "few", tracks=songs[:3], first=0.0)
    assert all(len(row.scores) == 3 for row in boxes.boxes(read_runs([few], "test"), "vocals", {"spleeter:demo": "r"}))


def test_outliers_are_left_out_where_they_would_squeeze_the_boxes(tmp_path):
    calm = np.linspace(1, 4, 30)
    for far, words in ((5.5, "SDR of x (dB)"), (-60.0, "SDR of x (dB); outliers outside: 1")):
        path = boxes.draw_boxes([boxes.Box("a", np.append(calm, far)), boxes.Box("b", calm)], "x", tmp_path / "x.svg")
        assert words in (texts := "".join(ElementTree.parse(path).getroot().itertext()))
        assert ("60" in texts) == (far == 60)


def test_a_run_has_one_colour_everywhere(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "configs/open_unmix.py:demo")]
    song = make_song()
    song = dataclasses.replace(song, estimates={"open_unmix:demo": song.estimates["a net"]})  # the other is not heard
    page = write_page(runs, tmp_path / "out", songs=[song], title="t").read_text(encoding="utf-8")
    assert re.search(r'<tr class="own run-2"><th scope="row">open_unmix', page)
    assert re.search(r'<label class="run-2"><input[^>]*> open_unmix', page)
    assert re.search(r'<path class="run-2"', page) and not re.search(r'<path class="run-1"', page)


def test_missing_score_files_are_named(run):
    (run / "scores" / "test" / "two.json").unlink()
    assert "No box plots (spleeter:demo: no score file of two); run eval.py again" in Page(write(run)).shown


# --- jaxsep report ----------------------------------------------------------------------------------------------------

SLOW = 8000


class Ramp:
    """A model whose answer tells from where in a song it is: source k is (k + 1) t / 100 times the mixture."""

    def __init__(self, sources):
        self.sources = sources

    def separate(self, audio, rate):
        assert rate == SLOW and audio.shape == (7 * SLOW + 100, 1)
        ramp = np.arange(len(audio), dtype=np.float32)[:, None] / rate / 100
        return {source: (k + 1) * ramp * audio for k, source in enumerate(self.sources)}


@pytest.fixture
def songs(tmp_path):
    """A data set with two songs of seven seconds and a bit."""
    random = np.random.default_rng(0)
    for name in ("b side", "a side"):
        folder = tmp_path / "data" / "test" / name
        folder.mkdir(parents=True)
        for stem in SOURCES:
            soundfile.write(folder / f"{stem}.wav", 0.1 * random.standard_normal(7 * SLOW + 100), SLOW, subtype="FLOAT")
    return tmp_path / "data"


@pytest.fixture
def models(monkeypatch):
    monkeypatch.setattr(
        jaxsep, "load", lambda run: Ramp(parse_sources(from_json((run / "config.json").read_text()).sources))
    )


def on(run, songs, sources="vocals,drums,bass,other"):
    """The run, trained on a data set."""
    config = load_config("configs/spleeter.py:demo")
    config.data.source, config.data.root, config.sources = "folder", str(songs), sources
    (run / "config.json").write_text(to_json(config))
    return run


def test_songs_are_separated_as_a_whole_and_cut(tmp_path, songs, models):
    pair = "vocals,accompaniment=drums+bass+other"
    runs = [on(make_run(tmp_path / "a", tracks=["b side"]), songs), on(make_run(tmp_path / "b"), songs, pair)]
    said = []
    read = read_runs(runs, "test")
    heard, reasons = separated_songs(read, "test", 1, 3, notify=said.append)
    (song,) = heard
    assert reasons == [] and song.name == "b side (held out)"  # has scores, though it is not the first
    assert said == ["spleeter:demo (a): separating b side", "spleeter:demo (b): separating b side"]
    stems = {stem: soundfile.read(songs / "test" / "b side" / f"{stem}.wav", always_2d=True)[0] for stem in SOURCES}
    part = slice(2 * SLOW, 5 * SLOW)
    mixture = sum(stems.values())
    assert song.start == 2 and song.rate == SLOW
    np.testing.assert_allclose(song.mixture, mixture[part], atol=1e-6)
    ramp = np.arange(len(mixture))[part, None] / SLOW / 100
    np.testing.assert_allclose(song.estimates["spleeter:demo (a)"]["drums"], 2 * ramp * mixture[part], atol=1e-6)
    np.testing.assert_allclose(
        song.estimates["spleeter:demo (b)"]["accompaniment"], 2 * ramp * mixture[part], atol=1e-6
    )
    rest = stems["drums"] + stems["bass"] + stems["other"]
    np.testing.assert_allclose(song.references["accompaniment"], rest[part], atol=1e-6)
    assert song.parts == {"accompaniment"}  # drums, bass and other are heard already

    assert [separated_songs(read, "test", 1, 3, start=s)[0][0].start for s in (0, 3, 9)] == [0, 3, 4]

    # Seconds of the clip are frames of the song's scores.
    truth = np.stack([stems[stem] for stem in SOURCES])
    whole = np.stack([(k + 1) * np.arange(len(mixture))[:, None] / SLOW / 100 * mixture for k in range(4)])
    frames = framewise_sdr(truth, whole, SLOW)[1, 2:5]
    np.testing.assert_allclose(song.sdr()["run-1", "drums"], frames, atol=1e-3)


def test_the_bad_seconds_of_a_whole_song_are_named(tmp_path, songs, models):
    run = on(make_run(tmp_path / "a", tracks=["a side", "b side"]), songs)
    path = run / "scores" / "test" / "a side.json"
    record = json.loads(path.read_text())
    frames = [4.0, -7.5, float("nan"), 5.0, 0.25, 6.0, 1.0]
    record["targets"][1]["frames"] = [{"metrics": {"SDR": value}} for value in frames]
    path.write_text(json.dumps(record))
    page = Page(command.report([run], tmp_path / "out", songs=1, seconds=2, start=1))
    assert "spleeter:demo: lowest -7.5 at 0:01, 0.2 at 0:04, 1.0 at 0:06 dB" in page.shown
    (heard, *_) = [values for tag, values in page.attributes if values.get("class") == "heard"]
    assert float(heard["x"]) == pytest.approx(1000 / 7.0125, abs=0.1)
    assert float(heard["width"]) == pytest.approx(2000 / 7.0125, abs=0.1)
    page = Page(command.report([run], tmp_path / "out", songs=1, seconds=2, data_root=str(songs)))
    assert "The whole song" not in page.shown and "lowest -7.5 at 0:01," not in page.shown


def test_the_command_makes_the_page(tmp_path, songs, models, capsys):
    runs = [on(make_run(tmp_path / name), songs) for name in ("a", "b")]
    out = tmp_path / "out"
    arguments = ["report", *map(str, runs), "--out", str(out), "--songs=1", "--seconds=2", "--clips=flac"]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    page = Page(out / "index.html")
    clips = clips_of(page)
    assert len(clips) == 1 + 4 * 3 and {len(wave) for wave in clips.values()} == {2 * SLOW}
    assert "spleeter:demo (a)" in page.shown and "a side (held out)" in page.shown
    assert f"jaxsep report {runs[0]} {runs[1]} --out={out} --split=test --songs=1 --seconds=2" in page.shown
    assert cli.main(arguments) == 0  # over its own report


def test_a_run_without_its_data_keeps_its_tables(tmp_path, songs, models):
    runs = [on(make_run(tmp_path / "a"), tmp_path / "gone"), on(make_run(tmp_path / "b"), songs)]
    page = Page(command.report(runs, tmp_path / "out", songs=1, seconds=2))
    assert "spleeter:demo (a), step 600" in page.shown
    assert re.search(r"spleeter:demo \(a\): its songs cannot be read: .*gone", page.shown)
    assert {values["data-deck"] for tag, values in page.attributes if tag == "audio"} == {
        "mixture",
        "run-1",
        "reference",
    }
    page = Page(command.report(runs, tmp_path / "out", songs=1, seconds=2, data_root=str(songs)))
    assert "cannot be read" not in page.shown and len([tag for tag, _ in page.attributes if tag == "audio"]) == 13


def test_bad_input_is_one_line(tmp_path, songs, models, capsys):
    good, other = on(make_run(tmp_path / "good"), songs), on(make_run(tmp_path / "other"), songs, "other=bass,vocals")
    unscored = on(make_run(tmp_path / "unscored"), songs)
    (unscored / "scores" / "test" / "summary.json").unlink()
    (tmp_path / "file").write_text("mine")
    full = tmp_path / "full"
    full.mkdir()
    (full / "diary.txt").write_text("mine")
    for arguments, words in (
        ([tmp_path / "nowhere"], "not a run folder"),
        ([unscored], "no scores/test/summary.json; score it first: python eval.py --workdir="),
        ([good, good], "given 2 times; name each run once"),
        ([good, "--split=tset"], "--split=tset: expected one of train, valid, test"),
        ([good, "--split=valid"], "no scores/valid/summary.json"),
        ([good, "--out", tmp_path / "file"], "is a file; name a folder"),
        ([good, "--out", full], "holds something else than a report"),
        ([good, "--out", good], "holds something else than a report"),
        ([good, "--seconds=0"], "--seconds=0: expected 1 to 60"),
        ([good, "--songs=-1"], "--songs=-1: expected 0 or more"),
        ([good, "--start=-2"], "--start=-2: expected 0 or more seconds"),
        ([good, "--clips=wav"], "--clips=wav: expected one of flac, mp3, opus"),
        ([good, other, "--out", tmp_path / "out"], "its 'other' is bass, that of another run other; report them apart"),
    ):
        assert cli.main(["report", *map(str, arguments)]) == 2, arguments
        lines = [line for line in capsys.readouterr().err.splitlines() if "separating" not in line]
        assert len(lines) == 1 and words in lines[0], lines
    assert (full / "diary.txt").read_text() == "mine" and (tmp_path / "file").read_text() == "mine"
    assert not list(tmp_path.glob(".*")) and not list(good.glob(".*"))
