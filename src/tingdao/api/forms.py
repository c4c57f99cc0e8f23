"""Multipart forms: one recording, uploaded or at a URL, and the fields of a dialect.

An upload goes to an unnamed temporary file in the state folder while it arrives (Starlette's form parser;
`app` points `tempfile` there), so nothing is left behind however the request ends. Fields are checked against a
pydantic model that forbids unknown ones; the same model describes the form in the OpenAPI document.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, BinaryIO, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from tingdao.audio.fetch import Fetcher
from tingdao.audio.job import full_disk_refused
from tingdao.errors import (
    BadRequest,
    EmptyAudio,
    MalformedUpload,
    MissingFile,
    TingdaoError,
    TooManyFiles,
    UnknownField,
)

FILE = "file"
MAX_FIELDS = 200
MAX_FIELD_BYTES = 256 * 1024


class Fields(BaseModel):
    """The fields of a form beside the file. Unknown ones are refused by name."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    url: str | None = Field(
        None, max_length=8192, description="http or https URL of the recording, in place of the part `file`."
    )


FieldsT = TypeVar("FieldsT", bound=Fields)


@asynccontextmanager
async def read_form(
    request: Request, fields: type[FieldsT], fetcher: Fetcher
) -> AsyncIterator[tuple[BinaryIO, FieldsT]]:
    """Receive a form: the open recording, and the checked fields. The recording is gone after the block.

    Raises MalformedUpload, MissingFile, TooManyFiles, EmptyAudio, UnknownField, BadRequest, and what fetching raises.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise MalformedUpload(
            "Send the recording as multipart/form-data with a part named 'file', as `curl -F file=@recording.mp3` does."
        )
    # One file more than allowed, so that two are told apart from what is malformed.
    parser = _Parser(
        request.headers, request.stream(), max_files=2, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
    )
    try:
        with full_disk_refused():
            form = await parser.parse()
        if not parser.complete:
            raise MultiPartException("It ends before its closing boundary: the upload was cut short.")
        uploads = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
        texts = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
        upload = _only_file(uploads)
        checked = _checked(fields, texts)
        if upload is not None and checked.url is not None:
            raise BadRequest("Send the recording, or say where it is, not both.", param="url")
        if upload is not None:
            yield upload, checked
        elif checked.url is not None:
            async with fetcher.recording(checked.url) as recording:
                yield recording, checked
        else:
            raise MissingFile(
                f"There is no recording in the form: send it in a part {FILE!r} with a file name, as "
                "`curl -F file=@recording.mp3` does, or give its 'url'.",
                param=FILE,
            )
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise _too_many() from None
        raise MalformedUpload(
            f"The multipart body cannot be read: {error.message} "
            "Let your HTTP client build it, and do not set Content-Type by hand."
        ) from None
    finally:
        parser.close()


class _Parser(MultiPartParser):
    """Starlette's parser, which also knows whether the body came to its end, and closes its files on every path."""

    complete = False

    def on_end(self) -> None:
        self.complete = True

    def close(self) -> None:
        for file in self._files_to_close_on_error:
            file.close()


def form_schema(fields: type[Fields]) -> dict[str, Any]:
    """The `requestBody` of a form in the OpenAPI document."""
    schema = fields.model_json_schema(by_alias=True)
    file = {"type": "string", "format": "binary", "description": "The recording, in any supported format."}
    schema["properties"] = {FILE: file, **schema.get("properties", {})}
    schema["oneOf"] = [{"required": [FILE]}, {"required": ["url"]}]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _only_file(uploads: list[tuple[str, UploadFile]]) -> BinaryIO | None:
    if len(uploads) > 1:
        raise _too_many()
    for name, upload in uploads:
        if name != FILE:
            raise UnknownField(f"The recording must be in the part {FILE!r}, not {name[:80]!r}.", param=name[:80])
        if not upload.size:
            raise EmptyAudio("The file part has no bytes. Was the recording saved before it was sent?", param=FILE)
        return upload.file
    return None


def _too_many() -> TingdaoError:
    return TooManyFiles("Send one recording per request.", param=FILE)


def _checked(fields: type[FieldsT], texts: list[tuple[str, str]]) -> FieldsT:
    """Fields as the model wants them: repeated names become lists where the model has a list."""
    lists = {
        name
        for key, field in fields.model_fields.items()
        if "list[" in str(field.annotation)
        for name in (key, field.alias or key)
    }
    values: dict[str, Any] = {}
    for name, value in texts:
        if name in lists:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise BadRequest(f"The field {name[:80]!r} is there twice.", param=name[:80])
        else:
            values[name] = value
    try:
        return fields.model_validate(values)
    except ValidationError as error:
        raise explain(error, fields) from None


def explain(error: ValidationError, fields: type[BaseModel]) -> BadRequest:
    """The first thing that is wrong with the fields, in words."""
    first = error.errors()[0]
    name = str(first["loc"][0])[:80] if first["loc"] else None
    if first["type"] == "extra_forbidden":
        known = ", ".join(field.alias or key for key, field in fields.model_fields.items())
        return UnknownField(f"The field {name!r} is not known here. Fields: {FILE}, {known}.", param=name)
    given = first.get("input")
    shown = f" (you sent {str(given)[:80]!r})" if isinstance(given, str) else ""
    return BadRequest(f"The field {name!r} is wrong: {first['msg']}{shown}.", param=name)
