"""What it costs to send a clip to a vLLM server, in each form that it takes: bytes, work here, time there.

    python benchmarks/vllm_forms.py http://127.0.0.1:8000 --model qwen3-asr

One token is asked for, so that the time is that of sending, decoding and prefill. The forms take turns; each clip is
different, since vLLM keeps what it has seen.
"""

from __future__ import annotations

import argparse
import base64
import statistics
import time
from collections.abc import Callable
from typing import Any

import httpx2
import numpy as np

from tingdao.engines.canary import recording
from tingdao.engines.vllm.prompt import flac, wav
from tingdao.types import SAMPLE_RATE, Clip


def clip_of(seconds: int, seed: int) -> Clip:
    """Speech, again and again, with noise that makes it another clip each time."""
    speech = np.resize(recording().samples, seconds * SAMPLE_RATE)
    noise = np.random.default_rng(seed).normal(0, 0.002, len(speech))
    return Clip((speech + noise).astype(np.float32))


Form = Callable[[Clip], tuple[str, dict[str, Any]]]
"""A clip → path, and the body as httpx2 takes it."""


def chat(encode: Callable[[Clip], bytes], kind: str) -> Form:
    """As a data URL in a chat."""

    def form(clip: Clip) -> tuple[str, dict[str, Any]]:
        url = f"data:audio/{kind};base64,{base64.b64encode(encode(clip)).decode()}"
        message = {"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": url}}]}
        return "/v1/chat/completions", {
            "json": {"model": arguments.model, "max_tokens": 1, "temperature": 0, "messages": [message]}
        }

    return form


def upload(encode: Callable[[Clip], bytes], kind: str) -> Form:
    """As a file in a form."""

    def form(clip: Clip) -> tuple[str, dict[str, Any]]:
        fields = {"model": arguments.model, "language": "en", "max_completion_tokens": "1"}
        return "/v1/audio/transcriptions", {"files": {"file": (f"clip.{kind}", encode(clip))}, "data": fields}

    return form


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("url")
parser.add_argument("--model", default="qwen3-asr")
parser.add_argument("--rounds", type=int, default=7)
arguments = parser.parse_args()
FORMS = {
    "chat, WAV in base64": chat(wav, "wav"),
    "chat, FLAC in base64": chat(flac, "flac"),
    "upload, WAV": upload(wav, "wav"),
    "upload, FLAC": upload(flac, "flac"),
}
print("| clip | form | KB sent | ms of CPU here | ms until the first token |\n|---|---|---|---|---|")
with httpx2.Client(base_url=arguments.url, trust_env=False, timeout=120) as client:
    seed = 0
    for seconds in (10, 30):
        sent, work, took = ({name: [] for name in FORMS} for _ in range(3))
        for turn in range(arguments.rounds + 1):
            for name, form in FORMS.items():
                seed += 1
                clip = clip_of(seconds, seed)
                cpu, began = time.process_time(), time.perf_counter()
                path, body = form(clip)
                request = client.build_request(
                    "POST", path, **body, headers={"Content-Type": "application/json"} if "content" in body else {}
                )
                request.read()
                made = time.process_time() - cpu
                answer = client.send(request)
                assert answer.status_code == 200, answer.text
                if turn:
                    sent[name].append(len(request.content))
                    work[name].append(made)
                    took[name].append(time.perf_counter() - began)
        for name in FORMS:
            middle = statistics.median
            print(
                f"| {seconds} s | {name} | {middle(sent[name]) / 1000:.0f} | {middle(work[name]) * 1000:.1f} "
                f"| {middle(took[name]) * 1000:.0f} |"
            )
