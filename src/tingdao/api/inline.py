"""Audio that comes inside a request as base64: decoded into a file, at the door, once.

`Base64` takes it in pieces, as it arrives; `AudioUrl` and `AudioData` are the fields of a request that hold it.
"""

from __future__ import annotations

import re
import tempfile
from binascii import a2b_base64
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO

from pydantic import PlainValidator, ValidationInfo
from pydantic_core import PydanticCustomError

DATA_URL = re.compile(rb"data:([^,]*);base64,", re.IGNORECASE)
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
WHITE = b"\t\r\n"
"""Not the space: where there is one, a plus was lost on the way."""
SHORTEST_LINE = 60
"""Characters. Base64 in lines has 64 or 76; what has shorter ones is a list of words."""
STANDARD = bytes.maketrans(b"-_", b"+/")
# What encoders escape although they need not (PHP the slash, .NET the plus), and line breaks of MIME.
ESCAPES = (
    (rb"\/", b"/"), (rb"\n", b""), (rb"\r", b""), (rb"\t", b""),
    (rb"\u002b", b"+"), (rb"\u002B", b"+"), (rb"\u002f", b"/"), (rb"\u002F", b"/"),
    (rb"\u003d", b"="), (rb"\u003D", b"="), (rb"\u000a", b""), (rb"\u000A", b""), (rb"\u000d", b""), (rb"\u000D", b""),
)  # fmt: skip
CUT_ESCAPE = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?\Z")

EXPECTED = "it takes an http(s) URL or a data URL (data:audio/wav;base64,…)"
EXPECTED_BARE = f"{EXPECTED}, or base64 alone"


@dataclass(frozen=True, slots=True)
class Inline:
    """Audio that came inside the request, decoded.

    file: open at its begin; closed at the end of the request.
    media_type: as the data URL says, maybe empty; None for base64 without one.
    """

    file: BinaryIO
    media_type: str | None


@dataclass(frozen=True, slots=True)
class Broken:
    """Base64 that cannot be decoded, and why. The field's own check says so, because it knows the field's name."""

    why: str


EMPTY = Broken("is empty")


class Base64:
    """Base64 that comes in pieces, as it stands in JSON → bytes in an unnamed temporary file.

    Takes both alphabets, escaped characters, white space, and padding left out. The first thing that is wrong is
    kept in `fault`; what follows it is dropped.
    """

    def __init__(self, media_type: str | None) -> None:
        self.file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115  open until the end of the request
        self.media_type = media_type
        self.fault: str | None = None
        self._rest = b""  # less than four characters that are not decoded yet
        self._cut = b""  # the begin of an escape
        self._padding: int | None = None
        self._size = 0

    def write(self, piece: bytes) -> None:
        """The next piece, of any length."""
        piece = self._cut + piece
        self._cut = b""
        if b"\\" in piece:
            if cut := CUT_ESCAPE.search(piece, max(0, len(piece) - 5)):
                self._cut = cut[0]
                piece = piece[: cut.start()]
            piece = _unescaped(piece)
        text = piece.translate(STANDARD, WHITE)
        if (padding := text.find(b"=")) >= 0 or self._padding is not None:
            padding = padding if self._padding is None else 0
            text, tail = text[:padding], text[padding:]
            self._padding = (self._padding or 0) + len(tail)
            if tail.strip(b"="):
                self.fault = self.fault or "goes on after its padding"
        if strange := text.translate(None, ALPHABET):
            self.fault = self.fault or f"has the character {chr(strange[0])!r}"
        if self.fault:
            return
        text = self._rest + text
        whole = len(text) & ~3
        self._rest = text[whole:]
        self._size += self.file.write(a2b_base64(text[:whole]))

    def end(self) -> Inline | Broken:
        """The audio, or what is wrong with it."""
        if self._cut:
            self.fault = self.fault or "has the character '\\'"
        if len(self._rest) == 1:
            self.fault = self.fault or "has one character too few or too many: was it cut short?"
        elif self._padding not in (None, -len(self._rest) % 4):
            self.fault = self.fault or "has the wrong padding: was it cut short?"
        if self.fault:
            return Broken(self.fault)
        self._size += self.file.write(a2b_base64(self._rest + b"=" * (-len(self._rest) % 4)))
        self.file.seek(0)
        return Inline(self.file, self.media_type) if self._size else EMPTY


def _unescaped(text: bytes) -> bytes:
    for escape, meant in ESCAPES:
        if b"\\" not in text:
            break
        text = text.replace(escape, meant)
    return text


def opened(head: bytes) -> tuple[str | None, int] | None:
    """(media type, where base64 begins) of a string by its begin; None when it is neither a data URL nor base64."""
    if url := DATA_URL.match(head):
        return url[1].decode("latin-1"), url.end()
    lines = head.split()
    if not lines or any(len(line) < SHORTEST_LINE for line in lines[:-1]):
        return None
    return None if b"".join(lines).translate(STANDARD).rstrip(b"=").translate(None, ALPHABET) else (None, 0)


def _audio(value: Any, files: list[Base64], *, bare: bool) -> Inline | str:  # noqa: ANN401  what JSON says
    """Audio as the client sent it: an http(s) URL stays as it is, base64 is decoded. Raises PydanticCustomError.

    bare: whether base64 without `data:…;base64,` is taken.
    """
    if isinstance(value, str) and re.match("https?://", value, re.IGNORECASE):
        return value
    if isinstance(value, str):
        value = _short(value, files, bare=bare)
    if isinstance(value, Broken):
        if value is EMPTY:
            raise PydanticCustomError("empty_audio", "there is no audio in it")
        raise PydanticCustomError("malformed_base64", "its base64 {why}", {"why": value.why})
    if not isinstance(value, Inline) or (value.media_type is None and not bare):
        raise PydanticCustomError("no_audio", EXPECTED_BARE if bare else EXPECTED)
    return value


def _short(text: str, files: list[Base64], *, bare: bool) -> Inline | Broken | None:
    """Base64 that was too short to be decoded as it came; None when it is no audio."""
    raw = text.encode("utf-8", "replace")
    url = DATA_URL.match(raw)
    if url is None and (not bare or re.match(r"[\w+.-]{2,}:", text)):
        return None
    base64 = Base64(url[1].decode("latin-1") if url else None)
    files.append(base64)
    base64.write(raw[url.end() :] if url else raw)
    return base64.end()


def _files(info: ValidationInfo) -> list[Base64]:
    """What the request closes at its end, which whoever validates hands over as the context."""
    files = info.context
    assert isinstance(files, list), "audio fields are validated with a list of files to close"
    return files


def _url(value: Any, info: ValidationInfo) -> Inline | str:  # noqa: ANN401  what JSON says
    return _audio(value, _files(info), bare=False)


def _data(value: Any, info: ValidationInfo) -> Inline | str:  # noqa: ANN401  what JSON says
    return _audio(value, _files(info), bare=True)


AudioUrl = Annotated[Inline | str, PlainValidator(_url, json_schema_input_type=str)]
"""An http(s) URL, or the audio of a data URL."""
AudioData = Annotated[Inline | str, PlainValidator(_data, json_schema_input_type=str)]
"""As `AudioUrl`, or base64 without the URL around it."""
