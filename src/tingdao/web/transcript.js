/** The transcript on the page: its segments, and the recording itself played beside them. */

import { put, say } from "./strings.js";
import { clock } from "./subtitles.js";

const list = document.getElementById("transcript");
const box = document.getElementById("player");

let segments = [];
let player = null;
let source = null;
let lit = -1;

/** Show segments [{start, end, text}] of a file, which plays from where a segment is clicked. */
export function showTranscript(file, found) {
  clearTranscript();
  segments = found;
  source = URL.createObjectURL(file);
  player = document.createElement(file.type.startsWith("video/") ? "video" : "audio");
  player.controls = true;
  player.preload = "metadata";
  player.ontimeupdate = () => light(at(player.currentTime));
  player.onerror = () => {
    const sorry = document.createElement("p");
    put(sorry, "unplayable");
    box.replaceChildren(sorry);
    list.classList.remove("playable");
    for (const button of list.querySelectorAll("button")) button.disabled = true;
    player = null;
  };
  player.src = source;
  box.replaceChildren(player);
  list.classList.add("playable");
  list.replaceChildren(...segments.map(item));
  translateTimes();
}

/** Take the transcript and the recording off the page. */
export function clearTranscript() {
  player?.pause();
  if (source) URL.revokeObjectURL(source);
  [segments, player, source, lit] = [[], null, null, -1];
  list.replaceChildren();
  box.replaceChildren();
}

/** Say in the current language what the times do. */
export function translateTimes() {
  for (const button of list.querySelectorAll("button")) {
    button.setAttribute("aria-label", say("play", { time: button.textContent }));
  }
}

list.addEventListener("click", (event) => {
  const row = event.target.closest("li");
  const selecting = !getSelection().isCollapsed && !event.target.closest("button");
  if (!row || !player || selecting) return;
  player.currentTime = segments[row.value].start;
  light(row.value);
  player.play().catch(() => {}); // the player's own error event says it
});

function item(segment, number) {
  const row = document.createElement("li");
  const time = document.createElement("button");
  const text = document.createElement("p");
  row.value = number;
  time.type = "button";
  time.textContent = clock(segment.start);
  text.textContent = segment.text.trim();
  text.dir = "auto";
  row.append(time, text);
  return row;
}

function light(number) {
  if (number === lit) return;
  list.children[lit]?.removeAttribute("aria-current");
  list.children[number]?.setAttribute("aria-current", "true");
  lit = number;
}

/** The last segment that has begun at a time, or -1; found by halving, as there can be many thousands. */
function at(seconds) {
  let [low, high] = [0, segments.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (segments[middle].start <= seconds + 0.05) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
