"""What operators do while the service runs: `GET /admin/status`, and `POST /admin/…-model` to reload, load and unload.

Who is an operator is decided before anything gets here (`api.access`). Models are named as requests name them, and
only what the settings offer can be loaded.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import tingdao
from tingdao.api.edge import OpenAIError, errors_of
from tingdao.engines import memory
from tingdao.engines.registry import ModelState
from tingdao.engines.slot import State
from tingdao.errors import BadRequest, ReloadFailed, SetupError, TooLarge
from tingdao.pipeline.service import Service

MOST_BYTES = 4096
"""Of a request: there is no more to say than a name."""


class ModelChoice(BaseModel):
    """Which model."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="Model name; left out: the default model.", examples=["default"])


class Changed(BaseModel):
    """What was done."""

    status: Literal["reloaded", "loaded", "unloaded"]
    model: str
    seconds: float = Field(description="How long it took.")


class ModelStatus(BaseModel):
    """One model now."""

    name: str
    state: State = Field(description="`idle` models are loaded by the next request for them.")
    reason: str | None = Field(description="Why it could not be loaded.")
    reloading: bool = Field(description="Whether a new version is being loaded while this one serves.")
    default: bool
    kept: bool = Field(description="Whether it stays loaded, however long nobody uses it.")
    loaded_since: float | None = Field(description="When it was loaded, in seconds of the epoch.")
    recordings: int = Field(description="Recordings in work with it.")
    calls: int = Field(description="Clips that it works on, or that wait for it.")
    waiting: int = Field(description="Those of them that wait, past what it works on side by side.")
    retiring: int = Field(description="Replaced versions that finish their last clips.")
    memory_bytes: int | None = Field(description="What it takes once loaded, roughly; null when nobody knows.")


class Queue(BaseModel):
    """All models together."""

    requests: int = Field(description="Requests in flight.")
    recordings: int
    calls: int
    waiting: int


class Status(BaseModel):
    """The service now."""

    version: str
    uptime_s: float
    memory_bytes: int = Field(description="Resident memory of the process.")
    queue: Queue
    models: list[ModelStatus]


def router(service: Service) -> APIRouter:
    """The routes of the operators."""
    routes = APIRouter(prefix="/admin", tags=["operators"], responses=errors_of(OpenAIError))
    registry = service.registry
    began = time.monotonic()

    @routes.get("/status", summary="What goes on", response_model=Status)
    async def status() -> Status:
        models = [_model(state, default=state.name == registry.default) for state in registry.states()]
        requests = service.metrics.registry.get_sample_value("tingdao_in_flight") or 0
        return Status(
            version=tingdao.__version__,
            uptime_s=round(time.monotonic() - began, 1),
            memory_bytes=memory.resident(),
            queue=Queue(
                requests=int(requests),
                recordings=sum(model.recordings for model in models),
                calls=sum(model.calls for model in models),
                waiting=sum(model.waiting for model in models),
            ),
            models=models,
        )

    @routes.post("/reload-model", summary="Load a model anew while it serves", response_model=Changed, **_BODY)
    async def reload(request: Request) -> Changed:
        return await _changed(request, "reloaded", registry.reload)

    @routes.post("/load-model", summary="Load a model now", response_model=Changed, **_BODY)
    async def load(request: Request) -> Changed:
        return await _changed(request, "loaded", registry.load)

    @routes.post(
        "/unload-model", summary="Free a model's memory until it is asked for", response_model=Changed, **_BODY
    )
    async def unload(request: Request) -> Changed:
        return await _changed(request, "unloaded", registry.unload)

    async def _changed(
        request: Request,
        status: Literal["reloaded", "loaded", "unloaded"],
        change: Callable[[str], Awaitable[ModelState]],
    ) -> Changed:
        name = registry.resolve((await _choice(request)).model)
        begun = time.monotonic()
        try:
            await change(name)
        except SetupError as error:
            left = registry.state(name).state
            rest = "The version that was there serves on." if left == "ready" else "The model is down."
            raise ReloadFailed(f"{error} {rest}") from None
        return Changed(status=status, model=name, seconds=round(time.monotonic() - begun, 2))

    return routes


async def _choice(request: Request) -> ModelChoice:
    """The body of a request, which may be empty. Raises TooLarge, BadRequest."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise TooLarge(f"The request is larger than {MOST_BYTES} bytes.")
    try:
        return ModelChoice.model_validate_json(bytes(body)) if body else ModelChoice()
    except ValidationError as error:
        why = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise BadRequest(
            f'The request is wrong ({why}). Send nothing, or {{"model": "NAME"}}.', param="model"
        ) from None


def _model(state: ModelState, *, default: bool) -> ModelStatus:
    return ModelStatus(
        name=state.name,
        state=state.state,
        reason=state.reason,
        reloading=state.reloading,
        default=default,
        kept=state.kept,
        loaded_since=state.since,
        recordings=state.recordings,
        calls=state.calls,
        waiting=state.waiting,
        retiring=state.retiring,
        memory_bytes=state.memory or None,
    )


_BODY: dict[str, Any] = {
    "openapi_extra": {"requestBody": {"content": {"application/json": {"schema": ModelChoice.model_json_schema()}}}}
}
