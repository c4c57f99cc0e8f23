"""What operators do while the service runs: `GET /admin/status`, and `POST /admin/…-model` to reload, load and unload.

Who is an operator is decided before anything gets here (`api.access`). Models are named as requests name them, and
only what the settings offer can be loaded.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import tingdao
from tingdao.api.edge import CHANGING, OpenAIError, errors_of
from tingdao.engines import memory, servers
from tingdao.engines.base import Ability
from tingdao.engines.registry import ModelState
from tingdao.engines.slot import State
from tingdao.errors import BadRequest, ReloadFailed, SetupError, TooLarge
from tingdao.observe import Figures, Journal
from tingdao.pipeline.service import Service

MOST_BYTES = 4096
"""Of a request: there is no more to say than a name."""
MOST_REQUESTS = 100
"""Requests that the status shows."""


class ModelChoice(BaseModel):
    """Which model."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="Model name; left out: the default model.", examples=["default"])


class Changed(BaseModel):
    """What was done."""

    status: Literal["reloaded", "loaded", "unloaded"]
    model: str
    seconds: float = Field(description="How long it took.")


class ServerStatus(BaseModel):
    """One server of a model now."""

    server: str = Field(description="Its URL, with the address where the name has several.")
    state: servers.State = Field(description="`draining`: no new calls, by an operator's wish; `leaving`: for good.")
    since: float | None = Field(description="Of the state, in seconds of the epoch.")
    reason: str | None = Field(description="Why it is not up.")
    version: str | None = Field(description="Of vLLM; like the next three, known once it was connected to.")
    model: str | None = Field(description="Name under which it serves the model.")
    context_length: int | None = Field(description="Tokens that it takes at once.")
    can: list[Ability]
    calls: int = Field(description="Clips at work there, sent from here.")
    outstanding_s: float = Field(description="Seconds of audio that they count for.")
    pace: float | None = Field(description="Seconds that a second of audio took lately, waiting included.")
    audio_s: float = Field(description="Audio that it answered.")
    failed: int = Field(description="Calls that failed through its fault.")
    moved: int = Field(description="Calls that were taken off it, since it went down or fell silent.")


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
    servers: list[ServerStatus] = Field(description="Where it runs; empty for models that run here.")


class Queue(BaseModel):
    """All models together."""

    requests: int = Field(description="Requests in flight.")
    recordings: int
    calls: int
    waiting: int
    audio_s: float = Field(description="Audio in work that is still to be recognised, as far as is known.")
    speed: float | None = Field(description="Seconds of audio recognised per second lately; null before it is known.")
    wait_s: float = Field(description="How long a newcomer would wait for its first clip.")


class RequestStatus(BaseModel):
    """One request in work."""

    request_id: str
    key: str | None = Field(description="Name of its key.")
    path: str
    model: str | None
    seconds: float = Field(description="Since it began.")
    audio_s: float = Field(description="Audio recognised so far.")
    stages: list[str] = Field(description="What it is at: `queue`, `decode`, `recognise`, `align`.")


class TroubleStatus(BaseModel):
    """A request that failed through a fault of the service."""

    at: float = Field(description="When, in seconds of the epoch.")
    request_id: str = Field(description="The log has more about it.")
    key: str | None
    route: str
    model: str | None
    status: int
    error: str | None


class GpuStatus(BaseModel):
    """Memory of one GPU."""

    number: int
    used: int = Field(description="Bytes taken, by whomever.")
    reserved: int = Field(description="Bytes that this service holds.")
    total: int


class Status(BaseModel):
    """The service now."""

    version: str
    uptime_s: float
    memory_bytes: int = Field(description="Resident memory of the process.")
    disk_free_bytes: int = Field(description="Free on the disk of the state folder.")
    queue: Queue
    models: list[ModelStatus]
    aligner: State | None = Field(description="How far the aligner is; null without one.")
    gpus: list[GpuStatus] = Field(description="GPUs that the models are on.")
    requests: list[RequestStatus] = Field(description="In work now, the oldest first; at most the oldest 100.")
    troubles: list[TroubleStatus] = Field(description="The last requests that failed with 5xx, the latest first.")


def router(service: Service, journal: Journal, folder: Path) -> APIRouter:
    """The routes of the operators. folder: the state folder."""
    routes = APIRouter(prefix="/admin", tags=["operators"], responses=errors_of(OpenAIError, CHANGING))
    registry = service.registry
    began = time.monotonic()

    @routes.get("/status", summary="What goes on", response_model=Status)
    async def status() -> Status:
        models = [_model(state, default=state.name == registry.default) for state in registry.states()]
        load = service.load
        working = sorted((each for each in journal.running if each.method != "GET"), key=lambda each: each.began)
        return Status(
            version=tingdao.__version__,
            uptime_s=round(time.monotonic() - began, 1),
            memory_bytes=memory.resident(),
            disk_free_bytes=shutil.disk_usage(folder).free,
            queue=Queue(
                requests=len(working),
                recordings=sum(model.recordings for model in models),
                calls=sum(model.calls for model in models),
                waiting=sum(model.waiting for model in models),
                audio_s=round(load.seconds, 1),
                speed=round(load.speed, 2) if load.speed else None,
                wait_s=round(load.wait, 1),
            ),
            models=models,
            aligner=service.aligner.state if service.aligner else None,
            gpus=[GpuStatus(**asdict(gpu)) for gpu in memory.gpus()],
            requests=[_request(each) for each in working[:MOST_REQUESTS]],
            troubles=[TroubleStatus(**asdict(each)) for each in reversed(journal.troubles)],
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


def _request(each: Figures) -> RequestStatus:
    return RequestStatus(
        request_id=each.id,
        key=each.key,
        path=each.path,
        model=each.model,
        seconds=round(each.elapsed, 1),
        audio_s=round(each.audio, 1),
        stages=list(each.stages),
    )


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
        servers=[_server(server) for server in state.servers],
    )


def _server(server: servers.Server) -> ServerStatus:
    return ServerStatus(
        server=server.name,
        state=server.state,
        since=server.since,
        reason=server.reason,
        version=server.version,
        model=server.model,
        context_length=server.length,
        can=sorted(server.can),
        calls=server.calls,
        outstanding_s=round(server.outstanding, 1),
        pace=round(server.pace, 4) if server.pace is not None else None,
        audio_s=round(server.audio, 1),
        failed=server.failed,
        moved=server.moved,
    )


_BODY: dict[str, Any] = {
    "openapi_extra": {"requestBody": {"content": {"application/json": {"schema": ModelChoice.model_json_schema()}}}}
}
