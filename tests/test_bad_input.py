"""Bad input of every kind gets a 4xx in the dialect's own shape, quickly, and leaves nothing behind."""

from __future__ import annotations

import io
import struct
import time
import wave
import zipfile

import pytest

NATIVE, OPENAI = "/api/v1/transcribe", "/v1/audio/transcriptions"


def wav(samples: bytes, *, rate: int = 16_000, channels: int = 1, claimed: int | None = None) -> bytes:
    """A PCM file by hand, whose header may lie."""
    size = len(samples) if claimed is None else claimed
    block = 2 * channels
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + samples
    return b"RIFF" + struct.pack("<I", size + 36 & 0xFFFFFFFF) + body


def tone(seconds: float) -> bytes:
    return struct.pack("<h", 1000) * int(seconds * 16_000)


def zipped() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("recording.wav", wav(tone(1)))
    return held.getvalue()


def only_part(recordings, name: str, share: float) -> bytes:
    whole = (recordings / name).read_bytes()
    return whole[: int(len(whole) * share)]


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"

FILES = {
    "text": (lambda r: b"this is not audio " * 100, 400, "unsupported_audio"),
    "one byte": (lambda r: b"x", 400, "unsupported_audio"),
    "zeros": (lambda r: bytes(100_000), 400, "unsupported_audio"),
    "no bytes": (lambda r: b"", 400, "empty_audio"),
    "wav without samples": (lambda r: wav(b""), 400, "empty_audio"),
    "wav header only in part": (lambda r: wav(tone(1))[:20], 422, "broken_audio"),
    "truncated flac": (lambda r: only_part(r, "jfk.flac", 0.5), 422, "broken_audio"),
    "flac header alone": (lambda r: (r / "jfk.flac").read_bytes()[:64], None, None),
    "header claims ten times the samples": (lambda r: wav(tone(3), claimed=960_000), 422, "broken_audio"),
    "playlist": (lambda r: PLAYLIST, 400, "unsupported_audio"),
    "ffconcat": (lambda r: b"ffconcat version 1.0\nfile /etc/passwd\n", 400, "unsupported_audio"),
    "zip": (lambda r: zipped(), 400, "unsupported_audio"),
    "html": (lambda r: b"<!doctype html><html><body>404</body></html>", 400, "unsupported_audio"),
    "pdf": (lambda r: b"%PDF-1.7\n" + bytes(1000), 400, "unsupported_audio"),
    "5 Hz": (lambda r: wav(tone(3), rate=5), None, None),
    "0 Hz": (lambda r: wav(tone(3), rate=0), None, None),
    "no channels": (lambda r: wav(tone(3), channels=0), None, None),
    "65535 channels": (lambda r: wav(tone(3), channels=65535), None, None),
    "too long": (lambda r: wav(tone(61)), 413, "too_long"),
    "too large": (lambda r: wav(tone(70)) + bytes(3_000_000), 413, "too_large"),
}


@pytest.fixture
def limited(make_client):
    return make_client(audio={"max_duration_s": 60}, server={"max_upload_mib": 4})


def check(client, answer, status, code, path, began):
    body = answer.json()
    found = body["error"] if path == NATIVE else body["error"]["code"]
    message = body["message"] if path == NATIVE else body["error"]["message"]
    assert 400 <= answer.status_code < 500, (answer.status_code, body)
    assert status in {None, answer.status_code}, (answer.status_code, body)
    assert code in {None, found}, body
    assert len(message) > 20
    assert "Traceback" not in answer.text
    assert "/state/" not in answer.text
    assert client.engine.asked == []
    assert client.leftovers() == []
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("path", [NATIVE, OPENAI])
@pytest.mark.parametrize("name", FILES)
def test_files(limited, recordings, name, path):
    content, status, code = FILES[name]
    began = time.monotonic()
    answer = limited.post(path, files={"file": ("recording.wav", content(recordings))}, data={"model": "default"})
    check(limited, answer, status, code, path, began)


GOOD_PART = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + wav(tone(0.5)) + b"\r\n"
MODEL_PART = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ndefault\r\n'
FORM = "multipart/form-data; boundary=b"

BODIES = {
    "no body": (FORM, b"", None),
    "no file part": (FORM, MODEL_PART + b"--b--\r\n", "missing_file"),
    "file as a plain field": (
        FORM,
        MODEL_PART + b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n--b--\r\n',
        None,
    ),
    "file under another name": (
        FORM,
        MODEL_PART + b"--b\r\n" + GOOD_PART.replace(b'"file"', b'"audio"') + b"--b--\r\n",
        "unknown_field",
    ),
    "two files": (FORM, MODEL_PART + b"--b\r\n" + GOOD_PART + b"--b\r\n" + GOOD_PART + b"--b--\r\n", "too_many_files"),
    "twenty files": (FORM, MODEL_PART + (b"--b\r\n" + GOOD_PART) * 20 + b"--b--\r\n", "too_many_files"),
    "no boundary": ("multipart/form-data", MODEL_PART + b"--b\r\n" + GOOD_PART + b"--b--\r\n", "malformed_upload"),
    "another boundary": ("multipart/form-data; boundary=c", MODEL_PART + b"--b\r\n" + GOOD_PART + b"--b--\r\n", None),
    "cut short": (FORM, MODEL_PART + b"--b\r\n" + GOOD_PART[:1000], "malformed_upload"),
    "garbage": (FORM, bytes(range(256)) * 10, "malformed_upload"),
    "json": ("application/json", b'{"file": "x"}', "malformed_upload"),
    "raw audio": ("audio/wav", wav(tone(1)), "malformed_upload"),
    "url-encoded": ("application/x-www-form-urlencoded", b"file=x", "malformed_upload"),
    "many fields": (
        FORM,
        b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\ny\r\n' * 1000 + b"--b--\r\n",
        "malformed_upload",
    ),
    "a huge field": (
        FORM,
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' + b"x" * 1_000_000 + b"\r\n--b--\r\n",
        "malformed_upload",
    ),
    "a header without end": (FORM, b"--b\r\nContent-Disposition: " + b"x" * 100_000, "malformed_upload"),
}


@pytest.mark.parametrize("path", [NATIVE, OPENAI])
@pytest.mark.parametrize("name", BODIES)
def test_bodies(limited, name, path):
    kind, body, code = BODIES[name]
    began = time.monotonic()
    answer = limited.post(path, content=body, headers={"content-type": kind})
    check(limited, answer, 400, code, path, began)


def test_the_name_and_declared_type_do_not_matter(limited, recordings):
    lying = {"file": ("movie.exe", (recordings / "cards_001.flac").read_bytes(), "image/png")}
    assert limited.post(NATIVE, files=lying).status_code == 200


def test_many_channels_at_a_high_rate_are_fine(limited):
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(8)
        file.setsampwidth(2)
        file.setframerate(192_000)
        file.writeframes(bytes(8 * 2 * 96_000))
    answer = limited.post(NATIVE, files={"file": held.getvalue()})
    assert (answer.status_code, answer.json()["data"]["duration_sec"]) == (200, 0.5)
    assert answer.json()["data"] == {"text": "", "language": None, "duration_sec": 0.5, "model": "fake"}
