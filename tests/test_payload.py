"""JSON requests in pieces: what is text stays text, what is audio is decoded, and nothing grows with the request."""

import base64
import errno
import json
import os
import random
import tempfile
import threading
import tracemalloc

import pytest

from tingdao.api.inline import EMPTY, Broken, Inline
from tingdao.api.payload import LONG, MOST_TEXT, Scanner
from tingdao.errors import BadRequest, MalformedUpload, TooLarge, TooManyFiles

PATH = "/v1/chat/completions"
SOUND = random.Random(1).randbytes(20_000)
TEXT = base64.b64encode(SOUND)
JSON = {"content-type": "application/json"}


@pytest.fixture
def client(shared):
    return shared


@pytest.fixture
def engine(shared):
    return shared.engine


def scanned(body: bytes, size: int = 65536) -> object:
    scanner = Scanner()
    try:
        for start in range(0, len(body), size):
            scanner.feed(body[start : start + size])
        return opened(scanner.result())
    finally:
        scanner.close()


def opened(value):
    """The values with what is in the files in place of the files."""
    if isinstance(value, dict):
        return {name: opened(item) for name, item in value.items()}
    if isinstance(value, list):
        return [opened(item) for item in value]
    return (value.media_type, value.file.read()) if isinstance(value, Inline) else value


WRITTEN = {
    "plain": TEXT,
    "no padding": TEXT.rstrip(b"="),
    "url-safe": base64.urlsafe_b64encode(SOUND),
    "slashes escaped, as PHP does": TEXT.replace(b"/", rb"\/"),
    "plus escaped, as .NET does": TEXT.replace(b"+", rb"\u002B"),
    "all marks escaped": TEXT.replace(b"+", rb"\u002b").replace(b"/", rb"\u002F").replace(b"=", rb"\u003d"),
    "lines of MIME": base64.encodebytes(SOUND).replace(b"\n", rb"\r\n"),
    "lines as code points": base64.encodebytes(SOUND).replace(b"\n", rb"\u000d\u000A"),
    "lines as they are": base64.encodebytes(SOUND),
}


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 1_000_000])
@pytest.mark.parametrize("how", WRITTEN)
def test_base64_as_clients_write_it(how, size):
    body = b'{"a": "x", "data": "data:audio/wav;base64,' + WRITTEN[how] + b'", "b": [1, null]}'
    assert scanned(body, size) == {"a": "x", "data": ("audio/wav", SOUND), "b": [1, None]}


@pytest.mark.parametrize(
    ("head", "media_type"),
    [("data:audio/wav;base64,", "audio/wav"), (r"data:audio\/wav;base64,", "audio/wav"), ("data:;base64,", ""),
     ("DATA:audio/ogg;codecs=opus;BASE64,", "audio/ogg;codecs=opus"), (r"\u0064ata:;base64,", ""), ("", None)],
)  # fmt: skip
def test_data_urls_and_bare_base64(head, media_type):
    assert scanned(b'["' + head.encode() + TEXT + b'"]') == [(media_type, SOUND)]


@pytest.mark.parametrize("unit", [b"ABCD", (b"A" * 63 + rb"\/"), rb"\u002f" * 4, b"B" * 64 + rb"\n"])
def test_strings_around_the_length_from_which_they_may_be_audio(unit):
    for lead in range(0, 16, 4):
        for times in range((LONG - 40) // len(unit), (LONG + 40) // len(unit) + 1):
            written = b"A" * lead + unit * times
            meant = json.loads(b'"' + written + b'"')
            for size in (1, 5, 4096):
                given = scanned(b'{"d":"' + written + b'"}', size)["d"]
                if len(written) < LONG:
                    assert given == meant
                elif meant.strip():
                    assert base64.b64encode(given[1]).decode() == meant.replace("\n", "")
                else:
                    assert given == EMPTY


def test_any_json_is_what_json_says():
    dice = random.Random(7)
    pieces = ["", "a", "\\", '"', '\\"', "\n", "/", "中", "🙂", "data:", "A" * 100, " ", "\\u", "x " * 2500, "é" * 3000]

    def value(depth):
        kind = dice.randrange(7 if depth else 4)
        if kind < 3:
            return "".join(dice.choices(pieces, k=dice.randrange(8)))
        if kind == 3:
            return dice.choice([None, True, 1, -2.5, 1e300, 12345678901234567890])
        if kind < 6:
            return {f"{key}{dice.choice(pieces)}": value(depth - 1) for key in range(dice.randrange(5))}
        return [value(depth - 1) for _ in range(dice.randrange(5))]

    for _ in range(150):
        given = value(4)
        body = json.dumps(given, ensure_ascii=dice.random() < 0.5, indent=dice.choice([None, 2])).encode()
        assert scanned(body, dice.choice([1, 3, 17, 4096, 100_000])) == given


@pytest.mark.parametrize("text", ["Names: Ada, Grace. ", "Ada Grace Alan ", "Ada\nGrace\nAlan\n", "中文"])
def test_a_long_text_is_no_audio(text):
    prompt = text * 2000
    assert scanned(json.dumps({"prompt": prompt}).encode()) == {"prompt": prompt}


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        (TEXT[:9000] + b"%" + TEXT[9000:], "'%'"),
        (TEXT.replace(b"+", b" "), "' '"),  # a plus that somebody took for a space
        (TEXT[:9000] + rb"\"" + TEXT[9000:], r"'\\'"),
        (TEXT[:9000] + rb"\\" + TEXT[9000:], r"'\\'"),
        (TEXT[:9000] + "é".encode() + TEXT[9000:], "'Ã'"),
        (TEXT[:9000] + b"=" + TEXT[9000:], "goes on after its padding"),
        (TEXT.rstrip(b"=")[:-2], "was it cut short"),
        (TEXT + b"==", "padding"),
        (TEXT[:9000] + b"\\", None),
    ],
)
def test_broken_base64_is_named(spoilt, why):
    body = b'{"data": "data:audio/wav;base64,' + spoilt + b'"}'
    for size in (1, 100, 100_000):
        if why is None:
            with pytest.raises(MalformedUpload, match="cut short"):
                scanned(body, size)
        else:
            (broken,) = scanned(body, size).values()
            assert isinstance(broken, Broken)
            assert why in broken.why


def test_broken_base64_is_not_read_for_ever():
    with pytest.raises(MalformedUpload, match="'%'"):
        scanned(b'["' + TEXT[:9000] + b"%" + rb"\"" * MOST_TEXT + b'"]')


@pytest.mark.parametrize(
    ("body", "kind", "why"),
    [
        (b"", MalformedUpload, "not JSON"),
        (b'{"a": "b', MalformedUpload, "cut short"),
        (b'{"a": "' + TEXT, MalformedUpload, "cut short"),
        (b'{"a": 1', MalformedUpload, "not JSON"),
        (b"{'a': 1}", MalformedUpload, "not JSON"),
        (b'{"a": NaN}', MalformedUpload, "NaN"),
        (b'{"a": -Infinity}', MalformedUpload, "Infinity"),
        (b'{"a": "\xff"}', MalformedUpload, "UTF-8"),
        (b'{"a": "\\ud800"}', MalformedUpload, "UTF-8"),
        (b'{"\\ud800": 1}', MalformedUpload, "UTF-8"),
        ('{"a": "b"}'.encode("utf-16"), MalformedUpload, "UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", MalformedUpload, "UTF-8"),
        (b"[" * 100_000, MalformedUpload, "nested"),
        (b'{"a":' * 100_000, MalformedUpload, "nested"),
        (b'{"a": 1, "a": 2}', BadRequest, "'a' is there twice"),
        (json.dumps(dict.fromkeys(map(str, range(101)))).encode(), BadRequest, "more than 100 fields"),
        (b'["' + b"no base64! " * 100_000 + b'"]', TooLarge, "1024 KiB"),
        (b" " * (MOST_TEXT + 1), TooLarge, "1024 KiB"),
        (b'["",' * 400_000, TooLarge, "1024 KiB"),
        (b'["' + b'","'.join([TEXT] * 3) + b'"]', TooManyFiles, "one recording"),
    ],
)
def test_what_is_no_request_is_refused(body, kind, why):
    for size in (333, 65536):
        with pytest.raises(kind, match=why):
            scanned(body, size)


def test_utf_8_with_a_byte_order_mark_is_taken():
    assert scanned(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


def test_nobody_can_name_the_placeholder():
    scanner = Scanner()
    other = Scanner()
    try:
        scanner.feed(b'["' + TEXT + b'", "')
        scanner.feed(other._mark.encode() + b'0"]')
        assert scanner.result()[1] == f"{other._mark}0"
    finally:
        scanner.close()


def test_memory_does_not_grow_with_the_audio():
    size = 25_000_000
    piece = base64.b64encode(bytes(range(256)) * 192)
    scanner = Scanner()
    tracemalloc.start()
    try:
        scanner.feed(b'{"messages": [{"content": [{"audio_url": {"url": "data:audio/wav;base64,')
        for _ in range(size // 49_152):
            scanner.feed(piece)
        scanner.feed(b'"}}]}]}')
        audio = scanner.result()["messages"][0]["content"][0]["audio_url"]["url"]
        peak = tracemalloc.get_traced_memory()[1]
        assert audio.file.seek(0, os.SEEK_END) == size // 49_152 * 49_152
    finally:
        tracemalloc.stop()
        scanner.close()
    assert peak < 600_000


def chat(url: object) -> bytes:
    content = [{"type": "audio_url", "audio_url": {"url": url}}]
    return json.dumps({"messages": [{"role": "user", "content": content}]}).encode()


@pytest.mark.parametrize(
    "kind", ["multipart/form-data; boundary=b", "application/x-www-form-urlencoded", "text/plain", ""]
)
def test_other_types_are_told_what_to_send(client, kind):
    answer = client.post(PATH, content=chat("data:,"), headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_upload")
    assert "application/json" in answer.json()["error"]["message"]


def test_a_type_with_a_character_set_is_taken(client, recordings):
    url = "data:audio/flac;base64," + base64.b64encode((recordings / "cards_001.flac").read_bytes()).decode()
    answer = client.post(PATH, content=chat(url), headers={"content-type": "Application/JSON; charset=UTF-8"})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("url", "code", "why"),
    [
        (3, "invalid_request", "data URL"),
        (None, "invalid_request", "data URL"),
        ("", "invalid_request", "data URL"),
        (TEXT.decode(), "invalid_request", "data URL"),  # bare base64 is for input_audio
        ("file:///etc/passwd", "invalid_request", "data URL"),
        ("data:audio/wav,RIFF", "invalid_request", "data URL"),
        ("data:audio/wav;base64,", "empty_audio", "no audio"),
        ("data:audio/wav;base64,====", "malformed_upload", "padding"),
        ("data:audio/wav;base64,abcde", "malformed_upload", "cut short"),
        ("data:audio/wav;base64," + TEXT[:-5].decode() + "?", "malformed_upload", "'?'"),
        ("data:audio/wav;base64," + TEXT.decode(), "unsupported_audio", "not a recording"),
    ],
)
def test_what_is_wrong_with_audio_is_said_with_its_field(client, engine, url, code, why):
    answer = client.post(PATH, content=chat(url), headers=JSON)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, code)
    assert code == "unsupported_audio" or error["param"] == "messages[0].content[0].audio_url.url"
    assert why in error["message"] or code == "unsupported_audio"
    assert engine.asked == []
    assert client.leftovers() == []


def test_a_body_past_the_limit_is_refused_while_it_comes(make_client):
    client = make_client(server={"max_upload_mib": 1})
    answer = client.post(PATH, content=chat("data:;base64," + "A" * 3_000_000), headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert client.leftovers() == []


def test_a_full_disk_is_a_507(client, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    for length in (3000, 300_000):  # decoded when it is known to be audio, and while it comes
        answer = client.post(PATH, content=chat("data:;base64," + "A" * length), headers=JSON)
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage_full")


def test_long_audio_is_decoded_on_a_thread(client, monkeypatch):
    threads = set()
    feed = Scanner.feed
    monkeypatch.setattr(Scanner, "feed", lambda *given: threads.add(threading.get_ident()) or feed(*given))
    client.post(PATH, content=chat("data:;base64," + "A" * 1_000_000), headers=JSON)
    assert threads - {threading.get_ident()}
