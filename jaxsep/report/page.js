// Each song is one player. All its clips run at once, from one clock and to the sample, and are heard or not by their
// gains: so stems add up as they were taken apart, and a switch between runs and reference keeps the place. Audio
// elements cannot do that (each has a clock of its own), and a page from disk may not read files, so the clips are in the
// page. Without this script every clip keeps the browser's own controls.
"use strict";

const AHEAD = 0.03; // seconds from a command to its first sample, for all clips to be ready
const FADE = 0.01; // seconds in which a gain changes, against clicks
const SHORTEST = 0.1; // seconds of a loop
const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
const tenths = (seconds) => `${clock(seconds)}.${Math.floor((seconds * 10) % 10)}`;
const bytes = (url) => Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (letter) => letter.charCodeAt(0)).buffer;

class Player {
  constructor(root) {
    this.root = root;
    this.length = Number(root.dataset.seconds);
    this.first = Number(root.dataset.start);
    this.rate = Number(root.dataset.rate);
    this.clips = [...root.querySelectorAll("audio")].map((audio) => ({ audio, ...audio.dataset }));
    this.stems = [...root.querySelectorAll(".stem")];
    this.decks = [...root.querySelectorAll(".deck [type=radio]")];
    this.before = this.decks[1] ?? this.decks[0];
    this.loop = { on: false, from: 0, to: this.length };
    this.playing = false;
    this.at = 0; // where it stands, or stood when it was started
    this.started = null; // time of the context at which it stood there; null while nothing sounds
    this.find(".play").addEventListener("click", () => this.toggle());
    this.find(".seek").addEventListener("input", (event) => this.seek(Number(event.target.value)));
    this.find(".loop").addEventListener("click", () => this.region({ on: !this.loop.on }));
    this.find(".from").addEventListener("click", () => this.region({ on: true, from: this.position }));
    this.find(".to").addEventListener("click", () => this.region({ on: true, to: this.position }));
    this.heard = this.decks.find((deck) => deck.checked); // a browser may remember the choice when the page is reloaded
    for (const deck of this.decks) deck.addEventListener("change", () => this.hear(deck));
    for (const stem of this.stems) this.equip(stem);
    for (const lane of root.querySelectorAll(".lane")) {
      lane.addEventListener("pointerdown", (event) => this.drag(lane, event));
    }
    for (const part of root.querySelectorAll("[hidden]")) part.hidden = false;
    for (const clip of root.querySelectorAll(".clip")) clip.hidden = true;
    root.addEventListener("focusin", () => (current = this));
    this.mix();
    this.show();
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  say(words) {
    this.find(".status").textContent = words;
  }

  // --- What is heard ---

  equip(stem) {
    const { source } = stem.dataset;
    for (const button of stem.querySelectorAll(".solo, .mute")) {
      button.addEventListener("click", () => this.press(button, button.getAttribute("aria-pressed") !== "true"));
    }
    stem.querySelector(".volume").addEventListener("input", (event) => {
      event.target.setAttribute("aria-valuetext", `${Math.round(event.target.value * 100)} percent`);
      this.mix();
    });
    stem.querySelector(".save").addEventListener("click", () => this.save(source));
    for (const button of stem.querySelectorAll(".worst")) {
      button.addEventListener("click", () => {
        this.hear(this.decks.find((deck) => deck.value === button.dataset.deck));
        this.seek(Number(button.dataset.at));
      });
    }
  }

  press(button, on) {
    button.setAttribute("aria-pressed", on);
    if (this.heard.value === "mixture") this.hear(this.before); // the mixture has no stems to choose from
    this.mix();
  }

  hear(deck) {
    if (!deck) return;
    if (deck !== this.heard) this.before = this.heard;
    [this.heard, deck.checked] = [deck, true];
    this.say(`Hearing ${deck.parentElement.firstChild.nextSibling.textContent.trim()}`);
    this.mix();
  }

  mix() {
    const pressed = (stem, kind) => stem.querySelector(kind).getAttribute("aria-pressed") === "true";
    const solo = this.stems.some((stem) => pressed(stem, ".solo"));
    const levels = { "": 1 };
    for (const stem of this.stems) {
      const on = solo ? pressed(stem, ".solo") : !pressed(stem, ".mute");
      levels[stem.dataset.source] = on ? Number(stem.querySelector(".volume").value) : 0;
      const here = this.clips.some((clip) => clip.deck === this.heard.value && clip.source === stem.dataset.source);
      stem.classList.toggle("off", this.heard.value !== "mixture" && !(on && here));
    }
    for (const clip of this.clips) {
      // The reference of a part of another source would be heard twice: it is heard when it is chosen.
      clip.level = clip.deck === this.heard.value && (solo || clip.part === undefined) ? levels[clip.source] : 0;
      if (!clip.gain) continue;
      const { gain } = clip.gain;
      const now = this.context.currentTime;
      gain.cancelScheduledValues(now);
      gain.setValueAtTime(gain.value, now);
      gain.linearRampToValueAtTime(clip.level, now + FADE);
    }
  }

  save(source) {
    const deck = this.heard.value;
    const clip = this.clips.find((one) => one.deck === deck && one.source === (deck === "mixture" ? "" : source));
    if (!clip) return this.say(`no ${source} here`);
    const link = document.createElement("a");
    link.href = clip.audio.src;
    link.download = `${clip.audio.getAttribute("aria-label")}.${this.root.dataset.suffix}`;
    link.click();
  }

  // --- Where it is ---

  get position() {
    if (this.started === null) return this.at;
    const { on, from, to } = this.loop;
    const passed = this.at + Math.max(0, this.context.currentTime - this.started);
    return on && passed >= to ? from + ((passed - from) % (to - from)) : Math.min(passed, this.length);
  }

  async toggle() {
    if (this.playing) return this.pause();
    this.playing = true;
    current = this;
    for (const other of players) if (other !== this) other.rest();
    this.show();
    try {
      await this.load();
    } catch (error) {
      this.pause();
      return this.say(`cannot play: ${error.message}`);
    }
    if (this.playing) this.start(this.at >= this.length - 0.01 ? 0 : this.at);
  }

  async load() {
    this.context ??= new AudioContext({ sampleRate: this.rate });
    await this.context.resume();
    await Promise.all(
      this.clips.map(async (clip) => {
        clip.buffer ??= await this.context.decodeAudioData(bytes(clip.audio.src));
        clip.gain ??= new GainNode(this.context, { gain: clip.level });
        clip.gain.connect(this.context.destination);
      }),
    );
    this.length = Math.min(this.length, ...this.clips.map((clip) => clip.buffer.duration)); // lossy ones may be shorter
    this.loop.to = Math.min(this.loop.to, this.length);
  }

  whole(seconds) {
    return Math.round(seconds * this.rate) / this.rate; // between samples a browser draws lines, which take treble away
  }

  start(at) {
    this.stop();
    const { on, from, to } = this.loop;
    this.at = this.whole(on && (at < from || at >= to) ? from : at);
    this.started = this.whole(this.context.currentTime + AHEAD);
    for (const clip of this.clips) {
      clip.node = new AudioBufferSourceNode(this.context, { buffer: clip.buffer, loop: on, loopStart: from, loopEnd: to });
      clip.node.connect(clip.gain);
      clip.node.start(this.started, this.at);
    }
    this.clips[0].node.onended = () => this.pause();
    this.follow();
  }

  stop() {
    for (const clip of this.clips) {
      if (!clip.node) continue;
      clip.node.onended = null;
      clip.node.stop();
      clip.node.disconnect();
      clip.node = null;
    }
  }

  pause() {
    [this.at, this.started, this.playing] = [this.position, null, false];
    this.stop();
    this.context?.suspend();
    this.show();
  }

  rest() {
    if (this.playing) this.pause();
    for (const clip of this.clips) clip.buffer = null; // seconds of sound are megabytes of memory
  }

  seek(at) {
    this.at = Math.min(Math.max(at, 0), this.length);
    if (this.started !== null) this.start(this.at);
    this.show();
  }

  region(changes) {
    const { on, from, to } = { ...this.loop, ...changes };
    if ("from" in changes && !("to" in changes) && to - from < SHORTEST) return this.region({ ...changes, to: this.length });
    if ("to" in changes && !("from" in changes) && to - from < SHORTEST) return this.region({ ...changes, from: 0 });
    const start = Math.min(Math.max(0, from), this.length - SHORTEST);
    const here = this.position; // before the loop changes, which it depends on
    const end = Math.min(Math.max(to, start + SHORTEST), this.length);
    this.loop = { on, from: this.whole(start), to: this.whole(end) };
    this.say(on ? `Loop ${this.words()}` : "Loop off");
    this.seek(here);
  }

  words() {
    return `${tenths(this.first + this.loop.from)} to ${tenths(this.first + this.loop.to)}`;
  }

  drag(lane, event) {
    if (event.button) return;
    const box = lane.getBoundingClientRect();
    const place = ({ clientX }) => (Math.min(Math.max(clientX - box.left, 0), box.width) / box.width) * this.length;
    const begin = place(event);
    lane.setPointerCapture(event.pointerId);
    const ended = new AbortController();
    const up = (last) => {
      ended.abort();
      const [from, to] = [begin, place(last)].sort((a, b) => a - b);
      if (Math.abs(last.clientX - event.clientX) > 8 && to - from >= SHORTEST) this.region({ on: true, from, to });
      else this.seek(begin);
    };
    lane.addEventListener("pointerup", up, { signal: ended.signal });
    lane.addEventListener("pointercancel", () => ended.abort(), { signal: ended.signal });
  }

  // --- What is seen ---

  follow() {
    this.show();
    if (this.started !== null) requestAnimationFrame(() => this.started !== null && this.follow());
  }

  show() {
    const { position } = this;
    const button = this.find(".play");
    if (button.textContent !== (this.playing ? "Pause" : "Play")) button.textContent = this.playing ? "Pause" : "Play";
    const seek = this.find(".seek");
    seek.value = position;
    seek.setAttribute("aria-valuetext", `${Math.floor(this.first + position)} seconds`);
    this.find(".time").textContent = `${tenths(this.first + position)} / ${clock(this.first + this.length)}`;
    this.find(".loop").setAttribute("aria-pressed", this.loop.on);
    this.find(".region").textContent = this.loop.on ? this.words() : "";
    const share = (seconds) => `${(seconds / this.length) * 100}%`;
    this.root.classList.toggle("looped", this.loop.on);
    this.root.style.setProperty("--at", share(position));
    this.root.style.setProperty("--from", share(this.loop.from));
    this.root.style.setProperty("--to", share(this.loop.to));
    this.read(Math.floor(position));
  }

  read(second) {
    if (second === this.second) return;
    this.second = second;
    for (const stem of this.stems) {
      const sdr = JSON.parse(stem.dataset.sdr);
      for (const now of stem.querySelectorAll(".now")) {
        const value = sdr[now.dataset.deck]?.[second];
        now.textContent = value === undefined || value === null ? "" : `(here ${value.toFixed(1)})`;
      }
    }
  }
}

// --- Keyboard: for the player that was used last ---

let current = null;
const players = [...document.querySelectorAll(".player")].map((root) => new Player(root));
current = players[0];

const keys = {
  k: (player) => player.toggle(),
  " ": (player) => player.toggle(),
  ArrowLeft: (player) => player.seek(player.position - 1),
  ArrowRight: (player) => player.seek(player.position + 1),
  Home: (player) => player.seek(0),
  r: (player) => player.hear(player.decks.find((deck) => deck.value === "reference")),
  x: (player) => player.hear(player.before),
  l: (player) => player.region({ on: !player.loop.on }),
  "[": (player) => player.region({ on: true, from: player.position }),
  "]": (player) => player.region({ on: true, to: player.position }),
  0: (player) => {
    for (const button of player.root.querySelectorAll("[aria-pressed=true]:not(.loop)")) player.press(button, false);
  },
};
const moved = "input, .scroll, pre"; // by arrows, when they have the focus
const own = { " ": "button, input, summary, a", ArrowLeft: moved, ArrowRight: moved, Home: moved };

document.addEventListener("keydown", (event) => {
  if (!current || !document.querySelector("#keys").checked || event.ctrlKey || event.altKey || event.metaKey) return;
  const { key, target } = event;
  if (target.matches(own[key] ?? "input:not([type=range]):not([type=radio]):not([type=checkbox])")) return;
  const digit = /^Digit([1-9])$/.exec(event.code)?.[1];
  const solo = digit && event.shiftKey && current.stems[digit - 1]?.querySelector(".solo");
  if (solo) solo.click();
  else if (digit && !event.shiftKey) current.hear(current.decks[digit - 1]);
  else if (keys[key]) keys[key](current);
  else return;
  event.preventDefault();
});
for (const part of document.querySelectorAll(".keys[hidden]")) part.hidden = false;
