/** Segments as files. A cue is a segment here; the service itself writes finer ones (response_format=srt). */

/** Each format: a function from segments [{start, end, text}] to the text of a file, and its media type. */
export const FORMATS = {
  srt: {
    type: "application/x-subrip",
    write: (segments) =>
      segments
        .map((each, at) => `${at + 1}\n${times(each, ",")}\n${oneLine(each.text).replaceAll("-->", "->")}\n`)
        .join("\n"),
  },
  vtt: {
    type: "text/vtt",
    write: (segments) =>
      "WEBVTT\n\n" + segments.map((each) => `${times(each, ".")}\n${escaped(oneLine(each.text))}\n`).join("\n"),
  },
  txt: {
    type: "text/plain",
    write: (segments) => segments.map((each) => `${oneLine(each.text)}\n`).join(""),
  },
};

/** Seconds as people read them: 0:07, 12:05, 1:00:00. */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

function times({ start, end }, point) {
  const first = Math.round(start * 1000);
  return `${stamp(first, point)} --> ${stamp(Math.max(Math.round(end * 1000), first + 1), point)}`;
}

function stamp(milliseconds, point) {
  const seconds = Math.floor(milliseconds / 1000);
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60].map(two);
  return parts.join(":") + point + String(milliseconds % 1000).padStart(3, "0");
}

function two(number) {
  return String(number).padStart(2, "0");
}

function oneLine(text) {
  return text.trim().replace(/\s+/g, " ");
}

function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
