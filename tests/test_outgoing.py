"""No field of any dialect makes the service dial what a stranger may not reach."""

import pytest

from test_fetch import TRICKS, Canary, Wire, lookup


def chat(part):
    return {"json": {"messages": [{"role": "user", "content": [part]}]}}


WAYS = {
    "native": ("/api/v1/transcribe", lambda url: {"files": {"url": (None, url)}}),
    "openai": ("/v1/audio/transcriptions", lambda url: {"files": {"url": (None, url), "model": (None, "default")}}),
    "audio_url": ("/v1/chat/completions", lambda url: chat({"type": "audio_url", "audio_url": {"url": url}})),
    "input_audio": ("/v1/chat/completions", lambda url: chat({"type": "input_audio", "input_audio": {"data": url}})),
}


SENDABLE = [trick for trick, _ in TRICKS if not any(0xD800 <= ord(letter) < 0xE000 for letter in trick)]
"""Half of a surrogate pair cannot be written in UTF-8."""


@pytest.mark.parametrize("way", WAYS)
def test_tricks_reach_nothing_through_any_dialect(make_client, way):
    path, request = WAYS[way]
    wire = Wire()
    with Canary() as canary:
        client = make_client(fetch={"allow": ["files.internal", "127.0.0.9:9000"], "ports": [80, 443, canary.port]})
        guard = client.service.fetcher._guard
        guard._lookup, guard._network = lookup, wire
        with client.kept():
            for trick in SENDABLE:
                answer = client.post(path, **request(trick.replace("PORT", str(canary.port))))
                assert answer.status_code == 400, (trick, answer.text)
        assert not wire.dialled
        assert canary.count() == 0
    assert client.engine.asked == []
