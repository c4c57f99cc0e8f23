// The official `openai` package for JavaScript, and plain fetch, against a running service.
// SERVICE is its address, RECORDINGS the folder with the recordings.

import assert from "node:assert/strict";
import { File } from "node:buffer";
import { createReadStream, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import OpenAI from "openai";

globalThis.File ??= File; // Node 18 has it only there

const { SERVICE, RECORDINGS } = process.env;
const client = new OpenAI({ baseURL: `${SERVICE}/v1`, apiKey: "none", maxRetries: 0 });

const JFK = join(RECORDINGS, "jfk.flac");
const DATA = readFileSync(JFK).toString("base64");
const SAID = /^and so,? my fellow americans,? ask not what your country can do for you/i;
const RAW = /^language English<asr_text>and so,? my fellow americans/i;

const withAudioUrl = [
  { role: "user", content: [{ type: "audio_url", audio_url: { url: `data:audio/flac;base64,${DATA}` } }] },
];
const withInputAudio = [
  { role: "user", content: [{ type: "input_audio", input_audio: { data: DATA, format: "wav" } }] },
];

test("transcription as json", async () => {
  const answer = await client.audio.transcriptions.create({ model: "whisper-1", file: createReadStream(JFK) });
  assert.match(answer.text, SAID);
  assert.deepEqual(answer.usage, { type: "duration", seconds: 11 });
});

test("transcription as verbose_json with words and segments", async () => {
  const answer = await client.audio.transcriptions.create({
    model: "whisper-1",
    file: createReadStream(JFK),
    response_format: "verbose_json",
    timestamp_granularities: ["word", "segment"],
  });
  assert.equal(answer.duration, 11);
  assert.equal(answer.language, "en");
  assert.equal(answer.words.length, 22);
  assert.ok(answer.words.every((word) => word.end >= word.start));
  assert.match(answer.segments[0].text, /fellow Americans/);
});

for (const [format, head] of [["text", /^And so/], ["srt", /^1\n00:00:00,\d{3} --> /], ["vtt", /^WEBVTT\n\n/]]) {
  test(`transcription as ${format}`, async () => {
    const answer = await client.audio.transcriptions.create({
      model: "whisper-1",
      file: createReadStream(JFK),
      response_format: format,
    });
    assert.match(answer, head);
    assert.match(answer.replaceAll("\n", " "), /fellow Americans/);
  });
}

test("transcription streamed", async () => {
  const stream = await client.audio.transcriptions.create({
    model: "whisper-1",
    file: createReadStream(JFK),
    stream: true,
  });
  let text = "";
  let done = null;
  for await (const event of stream) {
    if (event.type === "transcript.text.delta") text += event.delta;
    else if (event.type === "transcript.text.done") done = event;
  }
  assert.match(text, SAID);
  assert.equal(done.text, text);
  assert.ok(done.usage);
});

test("chat with audio_url", async () => {
  const answer = await client.chat.completions.create({ model: "default", messages: withAudioUrl });
  assert.match(answer.choices[0].message.content, RAW);
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.deepEqual(answer.choices[0].message.annotations, [{ type: "audio_info", language: "en" }]);
  assert.ok(answer.usage.completion_tokens > 20);
});

test("chat with input_audio and options", async () => {
  const answer = await client.chat.completions.create({
    model: "default",
    messages: withInputAudio,
    asr_options: { language: "en", content: "text" },
  });
  assert.match(answer.choices[0].message.content, SAID);
});

test("chat streamed, with usage", async () => {
  const stream = await client.chat.completions.create({
    model: "default",
    messages: withAudioUrl,
    stream: true,
    stream_options: { include_usage: true },
  });
  let content = "";
  let usage = null;
  let reason = null;
  for await (const chunk of stream) {
    content += chunk.choices[0]?.delta.content ?? "";
    reason ??= chunk.choices[0]?.finish_reason;
    usage ??= chunk.usage;
  }
  const whole = await client.chat.completions.create({ model: "default", messages: withAudioUrl });
  assert.equal(content, whole.choices[0].message.content);
  assert.equal(reason, "stop");
  assert.deepEqual(usage, whole.usage);
});

test("errors arrive as the client knows them", async () => {
  const text = [{ role: "user", content: "Hello!" }];
  await assert.rejects(client.chat.completions.create({ model: "default", messages: text }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.code, "invalid_request");
    assert.equal(error.param, "messages");
    return true;
  });
  await assert.rejects(
    client.chat.completions.create({ model: "gpt-9", messages: withAudioUrl }),
    OpenAI.NotFoundError,
  );
});

test("plain fetch", async () => {
  const body = JSON.stringify({ messages: withAudioUrl, asr_options: { content: "text" } });
  const answer = await fetch(`${SERVICE}/v1/chat/completions`, { method: "POST", headers: { "Content-Type": "application/json" }, body });
  const text = (await answer.json()).choices[0].message.content;
  assert.match(text, SAID);
});

test("plain fetch with a form", async () => {
  const form = new FormData();
  form.append("file", new Blob([readFileSync(JFK)]), "jfk.flac");
  const answer = await (await fetch(`${SERVICE}/api/v1/transcribe`, { method: "POST", body: form })).json();
  assert.match(answer.data.text, SAID);
});
