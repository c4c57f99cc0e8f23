"""Every error that a caller can meet, once: HTTP status, stable code, safe text.

    TingdaoError
    ├── BadRequest        400  the request itself: a field, a language, a format
    │   ├── UnknownLanguage, UnsupportedOption, MissingFile, TooManyFiles, MalformedUpload, …
    │   └── BadUrl, ForbiddenUrl
    ├── NotAudio, EmptyAudio, BrokenAudio, TooLong, TooLarge      400/413/422  the recording
    ├── FetchFailed, FetchTimeout                                 422          the server that a URL names
    ├── Unauthorized      401  MissingKey, InvalidKey
    ├── NotAllowed        403  ModelNotAllowed, AdminOnly, OriginNotAllowed, HostNotAllowed
    ├── NotFound, ModelNotFound, MethodNotAllowed, UploadTimeout  404/405/408
    ├── Conflict                                                  409  not while something else is going on
    ├── TooMany           429  RateLimited, QuotaExceeded
    ├── EngineFailed, ReloadFailed, StorageFull                   500/507  ours, not the caller's
    └── Unavailable       503  not now: try again
        ├── Overloaded, Stopping, ModelUnavailable
        └── DeadlineExceeded                              504          not within the time that it had

`status` is the HTTP status, `code` the stable name of the error, `number` the same for the native envelope
(status × 100 + a running number). The message is shown to strangers: it says what happened and what to do next,
and never carries paths, keys or model output. `api.edge` maps these to responses; nothing else does.
"""

from __future__ import annotations

from typing import ClassVar


class TingdaoError(Exception):
    """Base of all errors with a text that is safe to show.

    param: the name of the field that is at fault, where there is one.
    retry_after: seconds after which another try makes sense, where it does.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    number: ClassVar[int] = 50000

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after


class BadRequest(TingdaoError):
    """A field of the request is wrong."""

    status, code, number = 400, "invalid_request", 40000


class UnknownField(BadRequest):
    """A field this endpoint does not know: refused by name, never ignored."""

    code, number = "unknown_field", 40001


class MissingFile(BadRequest):
    """No file part in the upload."""

    code, number = "missing_file", 40002


class TooManyFiles(BadRequest):
    """More than one file part."""

    code, number = "too_many_files", 40003


class MalformedUpload(BadRequest):
    """The body, a form or JSON, cannot be read."""

    code, number = "malformed_upload", 40004


class UnknownLanguage(BadRequest):
    """Not a language code, or not one that the model knows."""

    code, number = "unknown_language", 40005


class UnsupportedOption(BadRequest):
    """A known option that cannot be honoured here: refused, never ignored."""

    code, number = "unsupported_option", 40006


class ContextTooLong(BadRequest):
    """More context text than the model takes."""

    code, number = "context_too_long", 40007


class NotAudio(TingdaoError):
    """The upload is not a recording in a supported format."""

    status, code, number = 400, "unsupported_audio", 40010


class EmptyAudio(TingdaoError):
    """The upload has no bytes, or a container without a single sample."""

    status, code, number = 400, "empty_audio", 40011


class BadUrl(BadRequest):
    """Not an http or https URL of the kind that is fetched."""

    code, number = "bad_url", 40012


class ForbiddenUrl(BadRequest):
    """A URL whose host or port this service does not reach out to; which of its addresses, is not told."""

    code, number = "url_not_allowed", 40013


class KeyInUrl(BadRequest):
    """A key in the address, where logs and histories keep it."""

    code, number = "key_in_url", 40020


class Unauthorized(TingdaoError):
    """Who is calling is not known."""

    status = 401


class MissingKey(Unauthorized):
    """No key with the request, where one is needed."""

    code, number = "missing_api_key", 40100


class InvalidKey(Unauthorized):
    """A key or ticket that is none, is not known here, or has ended."""

    code, number = "invalid_api_key", 40101


class NotAllowed(TingdaoError):
    """The caller may not do this."""

    status, code, number = 403, "forbidden", 40300


class ModelNotAllowed(NotAllowed):
    """The key was made for other models."""

    code, number = "model_not_allowed", 40301


class AdminOnly(NotAllowed):
    """Only keys of operators may do this."""

    code, number = "admin_only", 40302


class OriginNotAllowed(NotAllowed):
    """A page of another site is calling."""

    code, number = "origin_not_allowed", 40303


class HostNotAllowed(NotAllowed):
    """The request names a host that this service is not."""

    code, number = "host_not_allowed", 40304


class NotFound(TingdaoError):
    """No such thing."""

    status, code, number = 404, "not_found", 40400


class ModelNotFound(NotFound):
    """No model of this name."""

    code, number = "model_not_found", 40401


class ServerNotFound(NotFound):
    """The model has no server of this name; only operators see this."""

    code, number = "server_not_found", 40402


class MethodNotAllowed(TingdaoError):
    """The path exists, with another method."""

    status, code, number = 405, "method_not_allowed", 40500


class Conflict(TingdaoError):
    """Not while something else is going on."""

    status, code, number = 409, "conflict", 40900


class UploadTimeout(TingdaoError):
    """The client stopped sending."""

    status, code, number = 408, "upload_timeout", 40800


class TooLarge(TingdaoError):
    """The body has more bytes than allowed."""

    status, code, number = 413, "too_large", 41300


class TooLong(TingdaoError):
    """The recording is longer than allowed."""

    status, code, number = 413, "too_long", 41301


class BrokenAudio(TingdaoError):
    """A recording of a supported format that cannot be decoded."""

    status, code, number = 422, "broken_audio", 42200


class FetchFailed(TingdaoError):
    """The server of a URL did not deliver the recording."""

    status, code, number = 422, "fetch_failed", 42201


class FetchTimeout(TingdaoError):
    """The server of a URL took too long."""

    status, code, number = 422, "fetch_timeout", 42202


class TooMany(TingdaoError):
    """More than the caller may."""

    status = 429


class RateLimited(TooMany):
    """Too often, or too much audio, for now."""

    code, number = "rate_limit_exceeded", 42900


class QuotaExceeded(TooMany):
    """The audio of today is used up; trying again before tomorrow is no use."""

    code, number = "quota_exceeded", 42901


class EngineFailed(TingdaoError):
    """The engine failed on this item."""

    status, code, number = 500, "engine_failed", 50001


class ReloadFailed(TingdaoError):
    """A model could not be loaded anew; only operators see this, and the reason is theirs to read."""

    code, number = "reload_failed", 50002


class Unavailable(TingdaoError):
    """Not now."""

    status, code, number = 503, "unavailable", 50300


class Overloaded(Unavailable):
    """As much work as allowed is already in flight."""

    code, number = "overloaded", 50301


class Stopping(Unavailable):
    """The service is on its way out."""

    code, number = "stopping", 50302


class ModelUnavailable(Unavailable):
    """The model could not be loaded; the operator finds the reason in the log."""

    code, number = "model_unavailable", 50303


class DeadlineExceeded(Unavailable):
    """Not done within the time that the request had."""

    status, code, number = 504, "deadline_exceeded", 50400


class StorageFull(TingdaoError):
    """No room left on disk for temporary files."""

    status, code, number = 507, "storage_full", 50700


class SetupError(Exception):
    """Something the operator must mend before the service can run; the message says what to type."""
