"""The report in a browser, opened from disk: what is heard, where it is, and who can use it.

Every clip is a tone that rises by 200 Hz a second within a band of its own. So the sound that leaves the page tells
which clips are in it, how loud each is, and at which of its moments, to a millisecond or two.
"""

import base64
import contextlib
import json
import re
import time
from io import BytesIO
from pathlib import Path

import browser
import numpy as np
import pytest
import scipy.signal
import soundfile
from test_report import make_run

from jaxsep.report.page import write_page
from jaxsep.report.song import Song

pytestmark = pytest.mark.skipif(bool(browser.MISSING), reason=f"no {' and no '.join(browser.MISSING)} on this machine")

RATE, SECONDS, AMPLITUDE = 22050, 8, 0.12
FIRST, BAND, SLOPE = 400.0, 1450.0, 100.0  # Hz, Hz, Hz/s
WINDOW = 4096
CLOCK = 0.025  # s; the page reads its clock while another thread renders sound, a buffer at a time
CLIPS = [
    ("mixture", ""), ("run-1", "low"), ("run-2", "low"), ("reference", "low"),
    ("run-1", "high"), ("run-2", "high"), ("reference", "high"),
]  # fmt: skip
NAMES = {"run-1": "spleeter:demo", "run-2": 'net "B" <b>'}
TAP = f"""
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (to, ...rest) {{
  if (to instanceof AudioDestinationNode) {{
    window.tap ??= {{}};
    const rate = this.context.sampleRate;
    if (window.tap.context !== this.context) {{
      window.tap = {{ context: this.context, node: new AnalyserNode(this.context, {{ fftSize: {WINDOW} }}) }};
    }}
    connect.call(this, window.tap.node);
  }}
  return connect.call(this, to, ...rest);
}};
"""


def sweep(clip: tuple[str, str]) -> np.ndarray:
    """[t 1]"""
    seconds = np.arange(SECONDS * RATE) / RATE
    first = FIRST + BAND * CLIPS.index(clip)
    return AMPLITUDE * np.sin(2 * np.pi * (first * seconds + SLOPE / 2 * seconds**2))[:, None]


def make_song(decks=("run-1", "run-2"), name="Sweeps & 'more'") -> Song:
    estimates = {NAMES[deck]: {source: sweep((deck, source)) for source in ("low", "high")} for deck in decks}
    references = {source: sweep(("reference", source)) for source in ("low", "high")}
    scored = {run: {source: [1.0, float("nan"), -3.0] * 26 for source in stems} for run, stems in estimates.items()}
    mixture = sweep(("mixture", ""))
    whole = np.tile(mixture, (10, 1))[: 78 * RATE]
    return Song(name, RATE, mixture, estimates, references, start=60.0, whole=whole, scored=scored)


def heard(samples: np.ndarray, rate: float) -> dict[tuple[str, str], tuple[float, float]]:
    """Clip -> (level relative to its file, its position at the end of the samples) of all that are audible."""
    seconds = np.arange(len(samples)) / rate
    window = np.hanning(len(samples))
    standing = samples * np.exp(-1j * np.pi * SLOPE * seconds**2) * window  # each sweep as a tone
    size = 1 << 17
    spectrum = 2 * np.abs(np.fft.fft(standing, size)) / window.sum()
    found = {}
    for number, clip in enumerate(CLIPS):
        edges = FIRST + BAND * number + np.array([0, SLOPE * SECONDS])
        low, high = np.round(edges / rate * size).astype(int)
        peak = low + int(np.argmax(spectrum[low:high]))
        if spectrum[peak] > 0.02 * AMPLITUDE:
            position = (peak * rate / size - edges[0]) / SLOPE + len(samples) / rate
            found[clip] = (float(spectrum[peak] / AMPLITUDE), position)
    return found


class Window(browser.Browser):
    """A browser with ears."""

    def __enter__(self) -> "Window":
        self.protocol("Page.addScriptToEvaluateOnNewDocument", source=TAP)
        self.run("location.href = 'about:blank'")  # leaves the browser's own start page
        time.sleep(0.5)
        self.log("performance")
        return self

    def listen(self) -> dict:
        """What is heard now, and at which time of the sound card and which position of the slider."""
        answer = self.run(
            "const samples = new Float32Array(tap.node.fftSize);"
            "tap.node.getFloatTimeDomainData(samples);"
            "return {samples: [...samples], rate: tap.context.sampleRate, now: tap.context.currentTime,"
            " slider: Number($('.seek').value), state: tap.context.state, button: $('.play').textContent}"
        )
        answer["samples"] = np.array(answer["samples"])
        answer["heard"] = heard(answer["samples"], answer["rate"])
        return answer

    def listen_again(self, seconds: float = 0.3) -> dict:
        """After all that was heard before has left the window of the analysis."""
        time.sleep(seconds)
        return self.listen()

    def play(self) -> None:
        """Presses the button, and waits for the sound card: decoding takes its time on a busy machine."""
        before = self.run("return $('.seek').value")
        self.click(".play")
        for _ in range(200):
            if self.run("return $('.play').textContent === 'Pause' && $('.seek').value !== args[0]", before):
                return
            time.sleep(0.05)
        raise AssertionError(f"nothing plays: {self.run('return $(`.status`).textContent')}")

    def choose(self, deck: str) -> None:
        self.click(f".player .deck input[value={deck}]")

    def pressed(self, selector: str) -> bool:
        return self.run("return $(args[0]).getAttribute('aria-pressed') === 'true'", selector)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    runs = [make_run(folder / "a"), make_run(folder / "b", "configs/open_unmix.py:demo", 1.0)]
    return write_page(runs, folder / "out é", songs=[make_song(), make_song(["run-1"], "2nd")], title="t", clips="flac")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with Window(tmp_path_factory.mktemp("profile")) as window:
        yield window


@pytest.fixture
def window(chromium, report):
    """The report, freshly loaded."""
    with watched(chromium, report):
        yield chromium


@contextlib.contextmanager
def watched(chromium, report):
    """A report while it is looked at: the console stays silent, and nothing but the report's own files is asked for."""
    chromium.open(report)
    yield
    assert [line for line in chromium.log("browser") if line["level"] in ("SEVERE", "WARNING")] == []
    events = [json.loads(line["message"])["message"] for line in chromium.log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert report.as_uri() in asked
    assert [url for url in asked if not url.startswith((report.parent.as_uri(), "data:"))] == []
    assert [e["params"] for e in events if e["method"] == "Network.loadingFailed"] == []


def audible(window: Window) -> None:
    """Plays each deck of the first song of any page: it sounds like the sum of its clips, at the slider's place."""
    clips = window.run(
        "return [...$('.player').querySelectorAll('audio')].map((a) => [a.dataset.deck, 'part' in a.dataset, a.src])"
    )
    waves: dict[str, np.ndarray] = {}
    for deck, part, url in clips:
        wave, rate = soundfile.read(BytesIO(base64.b64decode(url.partition(",")[2])), always_2d=True)
        waves[deck] = waves.get(deck, 0) + wave.mean(axis=1) * (not part)
    window.play()
    last = None
    for deck, wave in waves.items():
        window.choose(deck)
        answer = window.listen_again(0.3)
        samples = answer["samples"]
        products = scipy.signal.correlate(wave, samples, mode="valid")
        energies = scipy.signal.correlate(wave**2, np.ones(len(samples)), mode="valid")
        alike = products / np.sqrt(np.maximum(energies, 1e-9) * np.sum(samples**2))
        start = int(np.argmax(alike))
        assert alike[start] > 0.99, (deck, alike[start])
        end = (start + len(samples)) / rate
        assert end == pytest.approx(answer["slider"], abs=0.05)
        if last:
            assert end - last[0] == pytest.approx(answer["now"] - last[1], abs=CLOCK)
        last = end, answer["now"]
    window.click(".play")


def levels(answer: dict) -> dict:
    return {clip: pytest.approx(level, abs=0.05) for clip, (level, _) in answer["heard"].items()}


def in_step(answer: dict) -> bool:
    """All that is heard is at one position, that of the slider."""
    positions = [position for _, position in answer["heard"].values()]
    return bool(positions) and np.ptp([*positions, answer["slider"]]) < 0.05 and np.ptp(positions) < 0.005


def test_play_pause_and_seek(window):
    window.play()
    first = window.listen_again(0.5)
    assert set(first["heard"]) == {("mixture", "")} and first["button"] == "Pause" and in_step(first)
    second = window.listen_again()
    moved = second["heard"]["mixture", ""][1] - first["heard"]["mixture", ""][1]
    assert moved == pytest.approx(second["now"] - first["now"], abs=CLOCK)

    window.drag(".whole .lane", 0.5, 0.5)  # a click in the middle
    there = window.listen_again()
    assert SECONDS / 2 < there["heard"]["mixture", ""][1] < SECONDS / 2 + 1.5 and in_step(there)

    window.click(".play")
    still = window.listen()
    assert still["button"] == "Play"
    assert window.listen_again(0.2)["slider"] == still["slider"]
    window.run("const s = $('.seek'); s.value = 2; s.dispatchEvent(new Event('input'))")
    window.play()
    again = window.listen_again()
    assert 2.2 < again["heard"]["mixture", ""][1] < 3.5 and in_step(again)
    assert window.run("return $('.time').textContent").startswith("1:0")  # of the whole song


def test_the_end_is_the_end_and_play_begins_anew(window):
    window.run("const s = $('.seek'); s.value = args[0]; s.dispatchEvent(new Event('input'))", SECONDS - 0.5)
    window.play()
    assert window.listen_again(1.0)["button"] == "Play"
    window.click(".play")
    answer = window.listen_again(0.4)
    assert answer["heard"]["mixture", ""][1] < 1.5


def test_switching_keeps_the_place_and_what_is_heard_is_what_was_chosen(window):
    window.play()
    before = window.listen_again(0.4)
    for deck in ("run-1", "run-2", "reference", "run-1", "mixture"):
        window.choose(deck)
        after = window.listen_again(0.25)
        wanted = {("mixture", "")} if deck == "mixture" else {(deck, "low"), (deck, "high")}
        assert levels(after) == {clip: 1.0 for clip in wanted} and in_step(after)
        passed = next(iter(after["heard"].values()))[1] - next(iter(before["heard"].values()))[1]
        assert passed == pytest.approx(after["now"] - before["now"], abs=CLOCK)  # no moment lost or repeated
        before = after


def test_solo_mute_and_volume(window):
    window.play()
    window.choose("run-2")
    start = window.listen_again(0.4)
    window.click(".stem[data-source=low] .solo")
    assert levels(window.listen_again()) == {("run-2", "low"): 1.0}
    window.choose("reference")
    assert levels(window.listen_again()) == {("reference", "low"): 1.0}
    window.click(".stem[data-source=low] .solo")
    window.click(".stem[data-source=low] .mute")
    assert levels(window.listen_again()) == {("reference", "high"): 1.0}
    window.click(".stem[data-source=low] .mute")
    window.run("const v = $('[data-source=high] .volume'); v.value = 0.5; v.dispatchEvent(new Event('input'))")
    end = window.listen_again()
    assert levels(end) == {("reference", "low"): 1.0, ("reference", "high"): 0.5}
    passed = end["heard"]["reference", "low"][1] - start["heard"]["run-2", "low"][1]
    assert passed == pytest.approx(end["now"] - start["now"], abs=CLOCK) and in_step(end)
    assert window.run("return $('[data-source=high] .volume').getAttribute('aria-valuetext')") == "50 percent"


def test_stems_are_chosen_from_the_mixture_too(window):
    window.play()
    window.click(".stem[data-source=high] .solo")  # the mixture has none: the first run's
    assert levels(window.listen_again(0.4)) == {("run-1", "high"): 1.0}


def test_a_source_within_another_is_not_heard_twice(chromium, tmp_path):
    """`both` contains `low` and `high`: the references of all three would be twice the song."""
    estimates = {
        NAMES["run-1"]: {source: sweep(("run-1", source)) for source in ("low", "high")},
        NAMES["run-2"]: {"both": sweep(("run-2", "high"))},
    }
    references = {source: sweep(("reference", source)) for source in ("low", "high")} | {"both": sweep(("mixture", ""))}
    song = Song("Parts", RATE, sweep(("run-2", "low")), estimates, references, parts={"both"})
    page = write_page([make_run(tmp_path / "run")], tmp_path / "out", songs=[song], title="t")
    with watched(chromium, page):
        chromium.choose("reference")
        chromium.play()
        assert set(chromium.listen_again(0.5)["heard"]) == {("reference", "low"), ("reference", "high")}
        chromium.click(".stem[data-source=both] .solo")
        assert set(chromium.listen_again()["heard"]) == {("mixture", "")}
        chromium.choose("run-2")
        assert set(chromium.listen_again()["heard"]) == {("run-2", "high")}
        off = "return [...document.querySelectorAll('.stem.off')].map((stem) => stem.dataset.source)"
        assert chromium.run(off) == ["low", "high"]


def test_a_loop_returns_to_its_start(window):
    window.choose("run-1")
    window.drag(".stem[data-source=high] .lane", 0.25, 0.375)  # 2 to 3 seconds
    assert window.pressed(".loop") and re.fullmatch(
        r"1:0(1\.9|2\.0) to 1:0(2\.9|3\.0)", window.run("return $('.region').textContent")
    )
    window.play()
    positions = [next(iter(window.listen_again(0.22)["heard"].values()), (0, 0))[1] for _ in range(9)]
    assert all(2.0 <= position < 3.25 for position in positions)  # a window over the seam shows its louder part
    assert (np.diff(positions) < -0.3).sum() >= 1
    answer = window.listen()
    assert 2.0 <= answer["slider"] <= 3.01
    window.click(".loop")
    assert not window.pressed(".loop") and window.listen_again(1.2)["slider"] > 3.05


def test_the_worst_second_is_a_click_away(window):
    window.choose("run-1")
    second = float(window.run("return $('[data-source=low] .worst[data-deck=run-2]').dataset.at"))
    window.click("[data-source=low] .worst[data-deck=run-2]")
    assert window.run("return $('.deck input:checked').value") == "run-2"
    assert window.run("return Number($('.seek').value)") == second


def test_one_song_at_a_time(window):
    window.play()
    window.run("tap.first = tap.context")
    window.click("article:nth-of-type(2) .play")
    window.run("while (tap.first || tap.context.currentTime < 0.3) await new Promise((r) => setTimeout(r, 20))")
    buttons = window.run("return [...document.querySelectorAll('.play')].map((button) => button.textContent)")
    assert buttons == ["Play", "Pause"] and set(window.listen()["heard"]) == {("mixture", "")}


def test_keyboard_shortcuts(window):
    window.press("k")
    assert window.run("return $('.play').textContent") == "Pause"
    window.run("while (!($('.seek').value > 0.3)) await new Promise((r) => setTimeout(r, 20))")
    window.press("3")
    assert levels(window.listen_again()) == {("run-2", "low"): 1.0, ("run-2", "high"): 1.0}
    assert window.run("return $('.status').textContent") == f"Hearing {NAMES['run-2']}"
    window.press("r")
    window.press("x")
    assert {deck for deck, _ in window.listen_again()["heard"]} == {"run-2"}
    window.press("x")
    assert {deck for deck, _ in window.listen_again()["heard"]} == {"reference"}
    window.press("Shift", "2")
    assert levels(window.listen_again()) == {("reference", "high"): 1.0}
    window.press("0")
    assert set(window.listen_again()["heard"]) == {("reference", "low"), ("reference", "high")}
    before = window.listen()["slider"]
    window.press("ArrowRight")
    assert window.listen()["slider"] > before + 0.95
    window.press("Home")
    assert window.listen()["slider"] < 0.5
    window.press("[")
    window.press("]")
    assert window.pressed(".loop")
    window.press("l")
    assert not window.pressed(".loop")
    window.press(" ")
    assert window.listen()["button"] == "Play"
    window.click(".keys summary")
    window.click("#keys")
    window.press("k")
    assert window.listen()["button"] == "Play"  # switched off
    assert window.run("return $('.keys').innerText").count("\n") > 6


def test_a_button_that_has_the_focus_keeps_its_space_key(window):
    window.run("$('.stem .mute').focus()")
    window.press(" ")
    assert window.pressed(".stem .mute") and window.run("return $('.play').textContent") == "Play"


WIDE = """
return [...document.querySelectorAll("main *")].map((e) => [e.outerHTML.slice(0, 99), e])
  .filter(([_, e]) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, pre, svg"))
  .map(([html]) => html);
"""
SMALL = """
return [...document.querySelectorAll("button, input[type=range], summary, label")]
  .filter((e) => e.offsetParent && e.getBoundingClientRect().height < 24).map((e) => e.outerHTML.slice(0, 99));
"""


def fits(window: Window, width: int) -> None:
    """Nothing is wider than a window of this width, nothing to use is lower than a fingertip's 24 pixels."""
    window.protocol("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=True)
    try:
        window.run("for (const part of document.querySelectorAll('details')) part.open = true")
        assert window.run("return innerWidth") == width
        assert window.run("return document.documentElement.scrollWidth") <= width
        assert window.run(WIDE) == [] and window.run(SMALL) == []
    finally:
        window.protocol("Emulation.clearDeviceMetricsOverride")


def names(window: Window) -> dict[str, list[str]]:
    """Role -> the names of all that has it, as assistive technology is told; whatever can be used has one."""
    window.run("for (const part of document.querySelectorAll('details')) part.open = true")
    nodes = window.protocol("Accessibility.getFullAXTree")["nodes"]
    used = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    found = {role: [name for kind, name in used if kind == role] for role, _ in used}
    for role in ("button", "slider", "radio", "checkbox", "DisclosureTriangle", "region", "image"):
        assert found[role] and all(found[role]), (role, found[role])
    return found


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_window(window, width):
    fits(window, width)


def test_everything_that_can_be_used_has_a_name(window):
    found = names(window)
    # Nobody has to see which stem a switch belongs to.
    assert {"Mute low", "Solo high", "Play", "Loop from here"} <= set(found["button"])
    assert {"Position", "Volume of high"} <= set(found["slider"])
    assert "status" in found and found["radio"][:4] == ["mixture", *NAMES.values(), "reference"]
    assert {"Sweeps & 'more'", "2nd", "Hear"} <= set(found["group"])


CONTRAST = """
const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
const ground = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
};
const poor = [];
for (const e of document.querySelectorAll("body *")) {
  const text = [...e.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!text || !e.offsetParent || e.closest("script, style")) continue;
  const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) poor.push([e.outerHTML.slice(0, 80), (a + 0.05) / (b + 0.05)]);
}
for (const run of args[0]) {
  const line = $(`.lane path.${run}`);
  const [a, b] = [light(parse(getComputedStyle(line).stroke)), light(ground(line))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 3) poor.push([run, (a + 0.05) / (b + 0.05)]);
}
return poor;
"""


def stands_out(window: Window, scheme: str, runs: list[str]) -> None:
    """Text has a contrast of 4.5:1, the runs' lines of 3:1."""
    window.protocol("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    try:
        window.run("for (const part of document.querySelectorAll('details')) part.open = true")
        window.click(".loop")
        assert window.run(CONTRAST, runs) == []
    finally:
        window.protocol("Emulation.setEmulatedMedia", features=[])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out(window, scheme):
    stands_out(window, scheme, ["run-1", "run-2"])


def passes(window: Window, page: Path) -> None:
    """All of the above that any page with a song can be asked."""
    with watched(window, page):
        audible(window)
        names(window)
        fits(window, 360)
        stands_out(window, "light", ["run-1"])
        stands_out(window, "dark", ["run-1"])


@pytest.mark.parametrize("format", ["mp3", "opus"])
def test_lossy_clips_are_in_step_too(chromium, tmp_path, format):
    run = make_run(tmp_path / "run")
    page = write_page([run], tmp_path / "out", songs=[make_song(["run-1"])], title="t", clips=format)
    with watched(chromium, page):
        chromium.choose("run-1")
        chromium.play()
        answer = chromium.listen_again(0.7)
    assert set(answer["heard"]) == {("run-1", "low"), ("run-1", "high")} and in_step(answer)
    assert answer["rate"] == (48000 if format == "opus" else RATE)
