"""JSON requests: the fields of a dialect, and audio as base64 in one of them.

    body ─► Scanner ─┬─ text and short strings ─► skeleton (at most 1 MiB) ─► json ─► the dialect's model
                     └─ a long base64 string ─► decoded as it comes ─► unnamed temporary file ─► Inline

Audio is decoded here, once, while it arrives: a request costs a few hundred KiB of memory however long its data URL
is, and nothing behind this module sees base64. In the skeleton a placeholder that nobody can guess stands for it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from tingdao.api.inline import CUT_ESCAPE, Base64, Broken, Inline, opened
from tingdao.audio.job import full_disk_refused
from tingdao.errors import (
    BadRequest,
    EmptyAudio,
    MalformedUpload,
    TingdaoError,
    TooLarge,
    TooManyFiles,
    UnknownField,
    UnsupportedOption,
)

BATCH = 128 * 1024
"""Bytes of the body that are scanned at once, on a thread: what they hold is written to disk there."""
LONG = 4096
"""Bytes from which on a string may be audio that is decoded as it comes."""
MOST_TEXT = 1024 * 1024
"""Bytes of a request besides its audio."""
MOST_FIELDS = 100
"""Fields of one object."""
MOST_AUDIO = 2
"""Long base64 strings in a request: one more than any endpoint takes, so that two are refused as two."""


class Payload(BaseModel):
    """An object of a JSON request. Unknown fields are refused by name."""

    model_config = ConfigDict(extra="forbid")


PayloadT = TypeVar("PayloadT", bound=Payload)


class Scanner:
    """The body, as it comes: what is text goes into the skeleton, what is audio into files.

    Audio is a string that begins as a base64 data URL, or with 4 KiB of nothing but base64.

    Raises BadRequest errors, and TooLarge for more than 1 MiB of text.
    """

    def __init__(self) -> None:
        self.audio: list[Base64] = []
        self._found: dict[str, Inline | Broken] = {}
        self._skeleton = bytearray()
        self._mark = secrets.token_hex(16)
        self._inside = False  # a string
        self._escaped = False  # the character that comes next, by a backslash before it
        self._begin: bytearray | None = None  # the string so far, while it may turn out to be audio
        self._base64: Base64 | None = None  # what decodes the string, once it is known to be audio
        self._dropped = 0  # bytes of a string after its fault

    def feed(self, data: bytes) -> None:
        """The next bytes of the body."""
        at = 0
        while at < len(data):
            if not self._inside:
                quote = data.find(b'"', at)
                end = quote + 1 or len(data)
                self._keep(data[at:end])
                at = end
                if quote >= 0:
                    self._inside, self._begin = True, bytearray()
            else:
                quote = self._closing_quote(data, at)
                end = quote if quote >= 0 else len(data)
                self._string(data[at:end])
                at = end
                if quote >= 0:
                    self._close_string()
                    self._keep(b'"')
                    at += 1

    def _closing_quote(self, data: bytes, at: int) -> int:
        """Where the string ends that goes on at `at`; -1 when not in this data."""
        start = at
        while True:
            quote = data.find(b'"', at)
            stop = quote if quote >= 0 else len(data)
            bare = len(data[start:stop].rstrip(b"\\"))
            slashes = stop - start - bare + (self._escaped and not bare)
            if quote < 0:
                self._escaped = slashes % 2 == 1
                return -1
            if slashes % 2 == 0:
                self._escaped = False
                return quote
            self._escaped = False
            at = start = quote + 1

    def _string(self, piece: bytes) -> None:
        """A piece of the string that is being read."""
        if self._base64 is not None:
            self._base64.write(piece)
            if self._base64.fault:
                self._dropped += len(piece)
                if self._dropped > MOST_TEXT:
                    raise MalformedUpload(f"The base64 of the audio {self._base64.fault}.")
        elif self._begin is None:
            self._keep(piece)
        else:
            self._begin += piece
            if len(self._begin) >= LONG:
                self._decide()

    def _decide(self) -> None:
        """Whether the string, now long, is audio."""
        begin = bytes(self._begin or b"")
        self._begin = None
        cut = CUT_ESCAPE.search(begin, LONG - 5, LONG)
        whole = cut.start() if cut else LONG
        try:
            head = json.loads(b'"%b"' % begin[:whole], strict=False).encode()
        except ValueError:  # half a character, or no JSON; the whole will tell
            head = b""
        kind = opened(head)
        if kind is None:
            self._keep(begin)
            return
        if len(self.audio) == MOST_AUDIO:
            raise TooManyFiles("Send one recording per request.")
        media_type, skip = kind
        self._base64 = Base64(media_type)
        self.audio.append(self._base64)
        self._base64.write(head[skip:])
        self._base64.write(begin[whole:])

    def _close_string(self) -> None:
        if self._base64 is not None:
            name = f"{self._mark}{len(self._found)}"
            self._found[name] = self._base64.end()
            self._keep(name.encode())
        elif self._begin is not None:
            self._keep(bytes(self._begin))
        self._inside, self._begin, self._base64 = False, None, None

    def _keep(self, text: bytes) -> None:
        self._skeleton += text
        if len(self._skeleton) > MOST_TEXT:
            raise TooLarge(
                f"The request has more than {MOST_TEXT // 1024} KiB besides base64 audio. "
                "Is the audio really base64, in one string?"
            )

    def result(self) -> Any:  # noqa: ANN401  what JSON says
        """The request as JSON values, with `Inline` or `Broken` where long base64 was. Raises MalformedUpload."""
        if self._inside:
            raise MalformedUpload("The JSON ends inside a string: the request was cut short.")
        try:
            found = json.loads(
                self._skeleton.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_refuse_constant
            )
            return self._placed(found)
        except json.JSONDecodeError as error:
            raise MalformedUpload(f"The request is not JSON: {error.msg} in line {error.lineno}.") from None
        except RecursionError:
            raise MalformedUpload("The JSON is nested too deeply.") from None
        except ValueError:  # not UTF-8, half a surrogate pair, or a number of thousands of digits
            raise MalformedUpload("The request is not JSON in UTF-8.") from None

    def _placed(self, value: Any) -> Any:  # noqa: ANN401  as above
        if isinstance(value, str):
            value.encode()  # JSON can spell what is no text
            return self._found.get(value, value)
        if isinstance(value, list):
            return [self._placed(item) for item in value]
        if isinstance(value, dict):
            return {self._placed(name): self._placed(item) for name, item in value.items()}
        return value

    def close(self) -> None:
        """Close the files, which frees them."""
        for audio in self.audio:
            audio.file.close()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose fields are there once each, and not by the thousand."""
    if len(pairs) > MOST_FIELDS:
        raise BadRequest(f"An object of the request has more than {MOST_FIELDS} fields.")
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
        raise BadRequest(f"The field {twice[:80]!r} is there twice.", param=twice[:80])
    return fields


def _refuse_constant(name: str) -> None:
    raise MalformedUpload(f"The request is not JSON: {name} is no number there.")


@asynccontextmanager
async def read_payload(request: Request, fields: type[PayloadT]) -> AsyncIterator[PayloadT]:
    """Receive a JSON request, checked. Its audio is gone after the block.

    Raises MalformedUpload, TooManyFiles, TooLarge, EmptyAudio, UnknownField, UnsupportedOption, BadRequest.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise MalformedUpload(
            f"Send JSON, with Content-Type: application/json (yours is {kind[:80]!r}). "
            "Recordings as files go to /v1/audio/transcriptions."
        )
    scanner = Scanner()
    try:
        with full_disk_refused():
            batch = bytearray()
            async for chunk in request.stream():
                batch += chunk
                if len(batch) >= BATCH:
                    await asyncio.to_thread(scanner.feed, bytes(batch))
                    batch.clear()
            scanner.feed(bytes(batch))
            given = scanner.result()
            try:
                checked = fields.model_validate(given, context=scanner.audio)
            except ValidationError as error:
                raise explain(error, given) from None
        yield checked
    finally:
        scanner.close()


QUOTE = "'"
ERRORS: dict[str, type[TingdaoError]] = {
    "unsupported_option": UnsupportedOption,
    "extra_forbidden": UnknownField,
    "union_tag_invalid": UnsupportedOption,
    "empty_audio": EmptyAudio,
    "malformed_base64": MalformedUpload,
}


def explain(error: ValidationError, given: Any) -> TingdaoError:  # noqa: ANN401  what JSON said
    """The first thing that is wrong with a request, with the path of its field."""
    first = error.errors(include_url=False)[0]
    name, kind, what = _path(first, given), first["type"], first["msg"]
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        name = f"{name}.{first['ctx']['discriminator'].strip(QUOTE)}"
    if kind == "extra_forbidden":
        what = "is not known here"
    elif kind == "union_tag_not_found":
        what = "is missing"
    elif kind == "union_tag_invalid":
        what = f"is {first['ctx']['tag'][:40]!r}; here it can be {first['ctx']['expected_tags']}"
    elif kind == "unsupported_option":
        what = f"cannot be honoured: {what}"
    else:
        what = "it takes an object" if kind == "model_type" else what
        shown = f" (you sent {first['input'][:80]!r})" if isinstance(first["input"], str) else ""
        what = f"is wrong: {what}{shown}"
    subject = f"The field {name!r}" if name else "The request"
    return ERRORS.get(kind, BadRequest)(f"{subject} {what.removesuffix('.')}.", param=name or None)


def _path(error: ErrorDetails, given: Any) -> str:  # noqa: ANN401  what JSON said
    """Where in the request: `messages[0].content[1].audio_url.url`, without pydantic's names in between."""
    path, value, before = "", given, None
    for number, step in enumerate(error["loc"], 1):
        tag = isinstance(before, int) and isinstance(value, dict) and step in (value.get("type"), value.get("role"))
        before = step
        if tag:
            continue
        if isinstance(step, int) and isinstance(value, list):
            value = value[step] if step < len(value) else None
            path += f"[{step}]"
        elif isinstance(value, dict) and step in value:
            value = value[step]
            path += f".{step}"
        elif number == len(error["loc"]) and error["type"] == "missing":
            path += f".{step}"
    return path.removeprefix(".")[:200]


def payload_schema(fields: type[Payload]) -> dict[str, Any]:
    """The `requestBody` of a JSON request in the OpenAPI document."""
    schema = fields.model_json_schema()
    parts = schema.pop("$defs", {})

    def inlined(value: Any) -> Any:  # noqa: ANN401  any part of a JSON schema
        if isinstance(value, list):
            return [inlined(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return inlined(parts[value["$ref"].rpartition("/")[2]]) | {k: v for k, v in value.items() if k != "$ref"}
        return {name: inlined(item) for name, item in value.items() if name != "discriminator"}

    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined(schema)}}}}
