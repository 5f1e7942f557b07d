// Each song is one player: all its clips run in step and all but the chosen ones are muted, so that switching between
// estimate and reference keeps the place. Without JavaScript every clip keeps the browser's own controls.
"use strict";

const DRIFT = 0.1; // seconds off the first clip that are let be: each correction is a seek, which can be heard
const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

for (const player of document.querySelectorAll(".player")) {
  const clips = [...player.querySelectorAll("audio")];
  const lead = clips[0];
  const button = player.querySelector(".play");
  const seek = player.querySelector(".seek");
  const time = player.querySelector("output");
  const decks = [...player.querySelectorAll("input[type=radio]")];
  const pressed = (name) =>
    new Set([...player.querySelectorAll(`.${name}[aria-pressed=true]`)].map((switched) => switched.dataset.source));

  const mix = () => {
    const deck = decks.find((choice) => choice.checked).value;
    const solo = pressed("solo");
    const mute = pressed("mute");
    for (const clip of clips) {
      const { role, source } = clip.dataset;
      const heard = role === "mixture" || ((!solo.size || solo.has(source)) && !mute.has(source));
      clip.muted = !(role === deck && heard);
    }
  };
  const show = () => {
    button.textContent = lead.paused ? "Play" : "Pause";
    seek.value = lead.currentTime;
    seek.setAttribute("aria-valuetext", `${lead.currentTime.toFixed(1)} seconds`);
    time.textContent = `${clock(lead.currentTime)} / ${clock(Number(seek.max))}`;
  };
  const align = (allowed) => {
    for (const clip of clips) {
      if (!clip.seeking && Math.abs(clip.currentTime - lead.currentTime) > allowed) clip.currentTime = lead.currentTime;
    }
  };
  const pause = () => clips.forEach((clip) => clip.pause());
  const play = () => {
    document.dispatchEvent(new CustomEvent("jaxsep-play", { detail: player }));
    if (lead.ended) lead.currentTime = 0;
    align(0);
    Promise.all(clips.map((clip) => clip.play())).catch((error) => {
      pause();
      time.textContent = `cannot play: ${error.message}`;
    });
  };

  button.addEventListener("click", () => (lead.paused ? play() : pause()));
  seek.addEventListener("input", () => {
    lead.currentTime = Number(seek.value);
    align(0);
    show();
  });
  lead.addEventListener("timeupdate", () => {
    if (!lead.paused) align(DRIFT);
    show();
  });
  for (const event of ["play", "pause", "ended"]) lead.addEventListener(event, show);
  document.addEventListener("jaxsep-play", (event) => event.detail !== player && pause());

  decks.forEach((choice) => choice.addEventListener("change", mix));
  for (const switched of player.querySelectorAll(".solo, .mute")) {
    switched.addEventListener("click", () => {
      switched.setAttribute("aria-pressed", switched.getAttribute("aria-pressed") !== "true");
      if (decks[0].checked) decks[1].checked = true; // the mixture has no stems to choose from
      mix();
    });
  }

  clips.forEach((clip) => clip.removeAttribute("controls"));
  player.querySelectorAll("[hidden]").forEach((part) => (part.hidden = false));
  mix();
  show();
}
