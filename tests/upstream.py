"""A double of a vLLM server that serves Qwen3-ASR, which can be slow, fail, freeze, dribble and refuse.

It speaks what Tingdao needs of vLLM 0.32: /health, /version, /v1/models, /tokenize, streamed chat and uploads. It hears
nothing: every clip is answered with the same words. In a process of its own: `python upstream.py '{"speed": 20}'`
prints its port; only the standard library is used, so that it starts at once.
"""

from __future__ import annotations

import asyncio
import base64
import email
import json
import re
import sys
import time
from contextlib import suppress

SAID = "language English<asr_text>In eighteen thirteen."
DEFAULTS = {
    "mode": "well",  # well, error, cut, dribble, busy, frozen, garbage, silent: from the first token on
    "model": "qwen3-asr",
    "version": "0.32.0",
    "length": 65536,
    "key": None,
    "audio": True,
    "refuses": None,  # a file that it cannot read
    "obeys": True,  # goes on with the assistant's message
    "upload": ("language", "prompt"),  # what of an upload it goes by; None: it takes none
    "ids": True,
    "counts": True,
    "said": SAID,
    "speed": 0.0,  # seconds of audio per second, one clip after another; 0: as fast as can be
    "latency": 0.0,  # seconds before the first token
    "gap": 0.0,  # seconds between tokens
}


class Double:
    """One server; its attributes are `DEFAULTS`, to be changed while it runs."""

    def __init__(self, **settings):
        vars(self).update(DEFAULTS | settings)
        self.asked: list[dict] = []
        self.connections = 0
        self.running = self.most = self.done = self.left = self.hung = 0
        self.audio_done = 0.0
        self.busy = 0.0  # seconds at work, of those with a speed
        self._turn = asyncio.Lock()
        self._server = None
        self._open = set()

    async def start(self, port=0, ssl=None, host="127.0.0.1"):
        self._server = await asyncio.start_server(self._serve, host, port, limit=1 << 26, ssl=ssl)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def stop(self):
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def __aenter__(self):
        return await self.start()

    async def __aexit__(self, *_):
        await self.stop()

    async def _serve(self, reader, writer):
        self._open.add(writer)
        self.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                _, path, _ = head.split(" ", 2)
                length = re.search(r"(?i)\r\ncontent-length: (\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b""
                if self.mode == "frozen":
                    await asyncio.sleep(3600)
                key = re.search(r"(?i)\r\nauthorization: Bearer (\S+)", head)
                if self.key and path.startswith("/v1") and (not key or key[1] != self.key):
                    await self._send(writer, 401, {"error": "Unauthorized"})
                elif path == "/v1/chat/completions":
                    await self._watched(reader, writer, json.loads(body))
                elif path == "/v1/audio/transcriptions" and self.upload is not None:
                    await self._watched(reader, writer, self._uploaded(head, body))
                else:
                    await self._send(writer, *self._answer(path, body))
        self._open.discard(writer)
        writer.close()

    def _answer(self, path, body):
        if path == "/health":
            return 200, None
        if path == "/version":
            return (200, {"version": self.version}) if self.version else (404, {"detail": "Not Found"})
        if path == "/v1/models":
            return 200, {"data": [{"id": self.model, "owned_by": "vllm", "max_model_len": self.length}]}
        if path == "/counters":  # not vLLM's: for those who have it in another process
            return 200, {"done": self.done, "left": self.left, "audio_done": self.audio_done}
        if path == "/tokenize" and self.counts:
            return 200, {"count": len(json.loads(body)["prompt"])}
        return 404, {"detail": "Not Found"}

    async def _send(self, writer, status, said):
        body = b"" if said is None else json.dumps(said).encode()
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    def _uploaded(self, head, body):
        """What an upload asks for, as a chat that it would do with."""
        message = email.message_from_bytes(re.search(r"(?i)content-type: .*", head)[0].encode() + b"\r\n\r\n" + body)
        parts = {part.get_param("name", header="content-disposition"): part for part in message.get_payload()}
        kind, audio = parts["file"].get_content_subtype(), parts.pop("file").get_payload(decode=True)
        fields = {name: part.get_payload(decode=True).decode() for name, part in parts.items()}
        url = f"data:audio/{kind};base64,{base64.b64encode(audio).decode()}"
        messages = [{"role": "user", "content": [{"audio_url": {"url": url}}]}]
        if "prompt" in self.upload and fields.get("prompt"):
            messages.insert(0, {"role": "system", "content": fields["prompt"]})
        told = "language" in self.upload and "language" in fields
        lead = [{"role": "assistant", "content": "language English<asr_text>"}] if told else []
        return {
            "uploaded": fields,
            "model": fields["model"],
            "messages": messages + lead,
            "max_tokens": int(fields["max_completion_tokens"]),
        }

    async def _watched(self, reader, writer, body):
        """Answer a question for as long as the other side is there."""
        self.asked.append(body)
        self.running += 1
        self.most = max(self.most, self.running)
        answering = asyncio.ensure_future(self._chat(writer, body))
        leaving = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done() or isinstance(answering.exception(), OSError):
                self.left += 1
                raise ConnectionResetError
            answering.result()
        finally:
            self.running -= 1
            for task in (answering, leaving):
                task.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await task

    async def _chat(self, writer, body):
        if refused := self._refusal(body):
            await self._send(writer, *refused)
            return
        seconds = audio_seconds(body)
        lead = body["messages"][-1]["content"] if body["messages"][-1]["role"] == "assistant" else ""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        if self.speed:
            async with self._turn:
                began = time.monotonic()
                await asyncio.sleep(seconds / self.speed)
                self.busy += time.monotonic() - began
        await asyncio.sleep(self.latency)
        pieces = self._pieces(body, lead)
        count = 0
        ids = self.ids and "uploaded" not in body
        for number, (text, token) in enumerate(pieces):
            if self.mode == "cut" and number == len(pieces) // 2:
                self.hung += 1
                raise ConnectionResetError
            if self.mode == "silent" and number == 2:
                self.hung += 1
                await asyncio.sleep(3600)
            count += 1
            choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
            await self._event(writer, {"choices": [choice | ({"token_ids": [token]} if ids else {})]})
            await asyncio.sleep(self.gap)
            if count >= body["max_tokens"] or text in body.get("stop", ()):
                break
        cut, stopped = count >= body["max_tokens"], bool(pieces) and text in body.get("stop", ())
        last = {"delta": {"content": ""}, "finish_reason": "length" if cut else "stop"}
        last |= {"stop_reason": text if stopped else None}
        if ids:
            last["token_ids"] = [] if cut or stopped else [1]
        await self._event(writer, {"choices": [last]})
        told = sum(len(each["content"]) for each in body["messages"] if "uploaded" in body and each["role"] != "user")
        usage = {"prompt_tokens": 20 + told + int(seconds * 13), "completion_tokens": count + (not cut and not stopped)}
        await self._event(writer, {"choices": [], "usage": usage})
        await self._event(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        self.done += 1
        self.audio_done += seconds

    def _refusal(self, body):
        if self.mode == "error":
            return 500, {"error": {"message": "CUDA error: an illegal memory access"}}
        if self.mode == "busy":
            return 503, {"error": {"message": "too many requests"}}
        if body["model"] != self.model:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        if not self.audio:
            return 400, {"error": {"message": "At most 0 audio(s) may be provided in one prompt.", "code": 400}}
        if self.refuses and base64.b64encode(self.refuses).decode() in json.dumps(body):
            return 400, {"error": {"message": "Invalid or unsupported audio file.", "code": 400}}
        return None

    def _pieces(self, body, lead):
        said = self.said
        if lead and (self.obeys or "uploaded" in body):
            said = said.removeprefix(lead) if said.startswith(lead) else said.partition("<asr_text>")[2]
        texts = re.findall(r"<asr_text>| ?[^ <]+|<| ", said)
        return [(text, 10 + sum(map(ord, text))) for text in texts]

    async def _event(self, writer, event):
        data = event if isinstance(event, str) else json.dumps(event)
        if self.mode == "garbage":
            data = data[: len(data) // 2]
        line = f"data: {data}\n\n".encode()
        chunk = f"{len(line):x}\r\n".encode() + line + b"\r\n"
        if self.mode == "dribble":
            for byte in chunk:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.2)
        writer.write(chunk) if self.mode != "dribble" else None
        await writer.drain()


def audio_seconds(body):
    """Of the clip in a chat request, FLAC or WAV at 16 kHz."""
    (url,) = [
        part["audio_url"]["url"]
        for message in body["messages"]
        if message["role"] == "user"
        for part in message["content"]
    ]
    kind, data = re.fullmatch(r"data:audio/(\w+);base64,(.*)", url).groups()
    audio = base64.b64decode(data)
    if kind == "wav":
        return (len(audio) - 44) / 32_000
    assert audio[:4] == b"fLaC"
    return (int.from_bytes(audio[18:26], "big") & ((1 << 36) - 1)) / 16_000


async def main():
    double = await Double(**json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}).start()
    sys.stdout.write(f"{double.port}\n")
    sys.stdout.flush()
    await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main())
