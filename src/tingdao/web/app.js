/** The page: choose a recording, follow its upload and recognition, read, play, copy and save the transcript. */

import { health, languages, ServiceError, transcribe, useKey } from "./api.js";
import { changeLanguage, language, put, putPlain, say, translatePage } from "./strings.js";
import { clock, FORMATS } from "./subtitles.js";
import { clearTranscript, showTranscript, translateTimes } from "./transcript.js";

const LOADING_POLL = 2000; // ms
const COPIED = 1600; // ms that the button says so

const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));

let codes = []; // of the languages on offer
let running = null; // AbortController of the transcription under way
let result = null; // {file, transcript} on the page

page.file.addEventListener("change", choose);
page.form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (page.file.files.length && !running) run(page.file.files[0]);
});
page.door.addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(page.key.value.trim());
  meetService();
});
page.cancel.addEventListener("click", () => running?.abort());
page.copy.addEventListener("click", copy);
page.toggle.addEventListener("click", () => {
  changeLanguage();
  offerLanguages();
  translateTimes();
});
for (const button of document.querySelectorAll("[data-format]")) {
  button.addEventListener("click", () => save(button.dataset.format));
}
acceptDrops();
translatePage();
meetService();

function choose() {
  const [file] = page.file.files;
  page.start.disabled = !file;
  forget();
  if (!file) {
    put(page.chosen, "choose");
    put(page.hint, "drop");
    return;
  }
  putPlain(page.chosen, file.name);
  put(page.hint, "another", { size: () => size(file.size) });
}

async function run(file) {
  forget();
  running = new AbortController();
  busy(true);
  const began = performance.now();
  const elapsed = () => (performance.now() - began) / 1000;
  let sent = 0;
  const tick = () => putPlain(page.elapsed, (sent < 1 ? `${percent(sent)} · ` : "") + clock(elapsed()));
  const ticking = setInterval(tick, 250);
  const onUpload = (share) => {
    sent = share;
    showUpload(share);
    tick();
  };
  try {
    const transcript = await transcribe(file, page.language.value, { signal: running.signal, onUpload });
    show(file, transcript, elapsed());
  } catch (error) {
    if (running.signal.aborted) put(page.status, "cancelled");
    else if (error.locked) askForKey(error);
    else fail(error);
  } finally {
    clearInterval(ticking);
    running = null;
    busy(false);
  }
}

function showUpload(share) {
  if (share < 1) page.progress.value = share;
  else page.progress.removeAttribute("value"); // how far recognition has come is not known
  const stage = share < 1 ? "uploading" : "recognising";
  if (page.status.dataset.text !== stage) put(page.status, stage); // screen readers say it once
}

function show(file, transcript, seconds) {
  const duration = clock(Math.round(transcript.duration));
  if (!transcript.segments.length) {
    put(page.status, "silent", { duration });
    return;
  }
  result = { file, transcript };
  page.result.hidden = false;
  showTranscript(file, transcript.segments);
  const spoken = () => (transcript.language ? languageName(transcript.language) : "");
  put(page.status, "done", { duration, elapsed: clock(Math.round(seconds)), language: spoken });
}

function fail(error) {
  putPlain(page.status, "");
  page.error.hidden = false;
  if (!(error instanceof ServiceError)) {
    putPlain(page.error, String(error));
    throw error;
  }
  if (error.key) put(page.error, error.key, error.params);
  else putPlain(page.error, error.message);
}

function forget() {
  result = null;
  page.result.hidden = page.error.hidden = true;
  putPlain(page.error, "");
  putPlain(page.status, "");
  clearTranscript();
}

function busy(yes) {
  const pressed = [page.start, page.cancel].includes(document.activeElement);
  page.file.disabled = page.language.disabled = page.start.hidden = yes;
  page.cancel.hidden = page.progress.hidden = !yes;
  page.form.setAttribute("aria-busy", String(yes));
  page.progress.value = 0;
  putPlain(page.elapsed, "");
  if (pressed) (yes ? page.cancel : page.start).focus({ preventScroll: true }); // the other has gone
}

async function copy() {
  const { text } = result.transcript;
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
  } else {
    // Browsers give the clipboard to https and localhost only; elsewhere the old way still works.
    const field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  put(page.copy, "copied");
  setTimeout(() => put(page.copy, "copy"), COPIED);
}

function save(format) {
  const { type, write } = FORMATS[format];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([write(result.transcript.segments)], { type: `${type};charset=utf-8` }));
  link.download = `${result.file.name.replace(/\.[^.]*$/, "")}.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the download reads it for a while
}

function acceptDrops() {
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    page.drop.classList.toggle("over", !running);
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) page.drop.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    page.drop.classList.remove("over");
    if (running) return;
    if (event.dataTransfer.files.length > 1) {
      forget();
      fail(new ServiceError("several files", "oneFile"));
      return;
    }
    page.file.files = event.dataTransfer.files;
    choose();
  });
}

async function meetService() {
  const state = await health();
  const loading = state?.status === "loading";
  page.notice.hidden = true;
  if (!state) put(page.notice, "unreachable");
  else if (loading) put(page.notice, "loading");
  else if (state.stand_in) put(page.notice, "standIn", { model: state.model });
  else putPlain(page.notice, state.notice ?? "");
  page.notice.hidden = !page.notice.textContent;
  if (!state || loading) {
    setTimeout(meetService, LOADING_POLL);
    return;
  }
  try {
    codes = await languages();
  } catch (error) {
    askForKey(error);
    return;
  }
  page.door.hidden = true;
  page.form.hidden = false;
  offerLanguages();
}

/** Put the field for a key in place of the form, whose file stays chosen. */
function askForKey(refusal) {
  forget();
  put(page.refusal, refusal.key);
  page.door.hidden = false;
  page.form.hidden = true;
  page.key.select();
}

/** Fill the list of languages: those of the browser first, then all, by name. */
function offerLanguages() {
  const before = page.language.value;
  const mine = new Set(navigator.languages.map((tag) => tag.split("-")[0]));
  const named = codes.map((code) => [code, languageName(code)]);
  named.sort(([, a], [, b]) => a.localeCompare(b, language()));
  page.language.replaceChildren(page.language.options[0]);
  for (const [key, those] of [["yours", named.filter(([code]) => mine.has(code))], ["all", named]]) {
    if (!those.length) continue;
    const group = document.createElement("optgroup");
    group.label = say(key);
    group.append(...those.map(([code, name]) => new Option(name, code)));
    page.language.append(group);
  }
  page.language.value = before;
}

function languageName(code) {
  try {
    return new Intl.DisplayNames([language()], { type: "language" }).of(code);
  } catch {
    return code; // not a code that the browser can read
  }
}

function percent(share) {
  return new Intl.NumberFormat(language(), { style: "percent" }).format(share);
}

function size(bytes) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte"];
  const power = Math.min(3, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  const format = { style: "unit", unit: units[power], unitDisplay: "short", maximumFractionDigits: power > 1 ? 1 : 0 };
  return new Intl.NumberFormat(language(), format).format(bytes / 1000 ** power);
}
