"""What operators send: JSON that names a model, and maybe more."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tingdao.errors import BadRequest, TooLarge

MOST_BYTES = 4096
"""Of a request: there is no more to say than a name or two."""

ChoiceT = TypeVar("ChoiceT", bound="ModelChoice")


class ModelChoice(BaseModel):
    """Which model."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="Model name; left out: the default model.", examples=["default"])


async def read(request: Request, shape: type[ChoiceT]) -> ChoiceT:
    """The body of a request; an empty one has no fields. Raises TooLarge, BadRequest."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise TooLarge(f"The request is larger than {MOST_BYTES} bytes.")
    try:
        return shape.model_validate_json(bytes(body) or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = str(first["loc"][0]) if first["loc"] else None
        about = f"{field}: {first['msg']}" if field else first["msg"]
        wanted = ", ".join(f'"{name}": "…"' for name in shape.model_fields)
        raise BadRequest(f"The request is wrong ({about}). It is JSON, {{{wanted}}}.", param=field) from None


def body_of(shape: type[ModelChoice], *, required: bool) -> dict[str, Any]:
    """The body for the OpenAPI document, as an argument of a route."""
    content = {"application/json": {"schema": shape.model_json_schema()}}
    return {"openapi_extra": {"requestBody": {"content": content, "required": required}}}
