"""What is said to Qwen3-ASR on a vLLM server: chat requests as JSON, with the clip as FLAC in a data URL.

    system: context · user: the clip · assistant: what is put into the model's mouth, for it to go on with

Of vLLM's forms only chat gives context with prefix text, token ids and clips of any length, and it takes audio only as
base64. FLAC is lossless and some 60 % of WAV, which costs less to make and to read (benchmarks/README.md has both).
The other form, an upload to /v1/audio/transcriptions, is for servers whose chat template leaves out what the assistant
says, and for clips whose language is forced: there the server itself writes the language into the prompt.
What callers write (context, prefix) must not be read as the tokens that steer the model, whatever it spells. The
server's tokenizer reads them out of any text, so they are broken in two by a space.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from tingdao import languages
from tingdao.engines.qwen.answer import TAG
from tingdao.engines.vllm.client import Request
from tingdao.types import SAMPLE_RATE, Clip

Encoding = Literal["flac", "wav"]

CHAT, TRANSCRIPTIONS = "/v1/chat/completions", "/v1/audio/transcriptions"
UPLOAD_LANGUAGES = frozenset(languages.NAMES) - {"yue", "fil"}
"""Languages that an upload can force: vLLM takes its names of them from Whisper's list, where these two are missing."""
UPLOAD_SECONDS = 30.0
"""Past this a server cuts what is uploaded wherever it likes."""

FULL_SCALE = 32_768
TEMPLATE = Path(__file__).with_name("template.jinja")
"""Chat template with which a server can be told the language: `vllm serve --chat-template`."""
STEERING = re.compile(r"<(?=[|/A-Za-z])")
"""Where each of the tokenizer's added tokens begins: <|im_end|>, <asr_text>, </tool_call> …"""


def flac(clip: Clip) -> bytes:
    """A clip as FLAC, 16 bits. By libFLAC, which takes half of the time of libav's encoder."""
    return _written(clip, "FLAC", compression_level=0.0)  # the others save 2 % and cost a fifth more


def wav(clip: Clip) -> bytes:
    """A clip as WAV, 16 bits."""
    return _written(clip, "WAV")


ENCODERS = {"flac": flac, "wav": wav}


def _written(clip: Clip, kind: str, compression_level: float | None = None) -> bytes:
    # Not into an object of Python, of which libsndfile asks hundreds of small things, each in turn with the event loop.
    with _memory() as file:
        soundfile.write(
            file.fileno(),
            _whole(clip),
            SAMPLE_RATE,
            subtype="PCM_16",
            format=kind,
            compression_level=compression_level,
            closefd=False,
        )
        file.seek(0)
        return file.read()


def _memory() -> BinaryIO:
    """A file without a name, in memory where the system has such."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("clip"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _whole(clip: Clip) -> NDArray[np.int16]:
    return np.clip(np.rint(clip.samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype("<i2")


def plain(text: str) -> str:
    """Text in which nothing steers the model."""
    return STEERING.sub("< ", text)


@dataclass(frozen=True, slots=True)
class Question:
    """One clip and its context.

    context: in which nothing steers the model. form, audio: the clip as a file.
    system, user: both as the messages of a chat.
    """

    context: str
    form: str
    audio: bytes
    system: bytes
    user: bytes

    @classmethod
    def of(cls, clip: Clip, context: str = "", encoding: Encoding = "flac") -> Question:
        """Encode a clip, which takes milliseconds, unless it is as it was sent."""
        context = plain(context)
        system = _message("system", context) + b"," if context else b""
        form, audio = (clip.sent.form, clip.sent.data) if clip.sent else (encoding, ENCODERS[encoding](clip))
        part = b'{"role":"user","content":[{"type":"audio_url","audio_url":{"url":"data:audio/%b;base64,%b"}}]}'
        return cls(context, form, audio, system, part % (form.encode(), base64.b64encode(audio)))

    def chat(self, model: str, lead: str, max_tokens: int, *, tag_only: bool = False) -> Request:
        """The question as a chat.

        lead: what is put into the model's mouth, as `opening` makes it, or nothing.
        tag_only: whether the answer is to end with the language tag.
        """
        options: dict[str, Any] = {
            "model": model,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }
        messages = self.system + self.user
        if lead:
            head, tag, text = lead.partition(TAG)
            messages += b"," + _message("assistant", head + tag + plain(text))
            options |= {"continue_final_message": True, "add_generation_prompt": False}
        if tag_only:
            options |= {"stop": [TAG], "include_stop_str_in_output": True}
        return Request(CHAT, json.dumps(options).encode()[:-1] + b',"messages":[' + messages + b"]}")

    def upload(self, model: str, language: str | None, max_tokens: int) -> Request:
        """The question as an upload. language: that is forced (ISO code)."""
        fields = {
            "model": model,
            "max_completion_tokens": str(max_tokens),
            "temperature": "0",
            "stream": "true",
            "stream_include_usage": "true",
        }
        if language:  # vLLM 0.32 goes by the former, Qwen's own server (qwen-asr 0.0.6) by the latter
            fields |= {"language": language, "to_language": language}
        if self.context:
            fields["prompt"] = self.context
        boundary = secrets.token_hex(16).encode()
        head = b'--%b\r\nContent-Disposition: form-data; name="%b"'
        parts = [head % (boundary, name.encode()) + b"\r\n\r\n" + text.encode() for name, text in fields.items()]
        file = b'; filename="clip.%b"\r\nContent-Type: audio/%b\r\n\r\n' % ((self.form.encode(),) * 2)
        parts += [head % (boundary, b"file") + file + self.audio, b"--%b--\r\n" % boundary]
        return Request(TRANSCRIPTIONS, b"\r\n".join(parts), f"multipart/form-data; boundary={boundary.decode()}")


def _message(role: str, text: str) -> bytes:
    return json.dumps({"role": role, "content": text}).encode()
