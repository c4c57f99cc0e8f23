"""What operators do while the service runs: `GET /admin/status`, and `POST /admin/…-model` to reload, load and unload.

Who is an operator is decided before anything gets here (`api.access`). Models are named as requests name them, and
only what the settings offer can be loaded. What is done about servers is in `api.servers`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

import tingdao
from tingdao.api.choice import ModelChoice, body_of, read
from tingdao.api.edge import CHANGING, OpenAIError, errors_of
from tingdao.api.servers import ServerStatus
from tingdao.engines import memory
from tingdao.engines.registry import ModelState
from tingdao.engines.slot import State
from tingdao.errors import ReloadFailed, SetupError
from tingdao.observe import Figures, Journal
from tingdao.pipeline.service import Service

MOST_REQUESTS = 100
"""Requests that the status shows."""


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
    began, body = time.monotonic(), body_of(ModelChoice, required=False)

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

    @routes.post("/reload-model", summary="Load a model anew while it serves", response_model=Changed, **body)
    async def reload(request: Request) -> Changed:
        return await _changed(request, "reloaded", registry.reload)

    @routes.post("/load-model", summary="Load a model now", response_model=Changed, **body)
    async def load(request: Request) -> Changed:
        return await _changed(request, "loaded", registry.load)

    @routes.post("/unload-model", summary="Free a model's memory until it is asked for", response_model=Changed, **body)
    async def unload(request: Request) -> Changed:
        return await _changed(request, "unloaded", registry.unload)

    async def _changed(
        request: Request,
        status: Literal["reloaded", "loaded", "unloaded"],
        change: Callable[[str], Awaitable[ModelState]],
    ) -> Changed:
        name = registry.resolve((await read(request, ModelChoice)).model)
        begun = time.monotonic()
        try:
            await change(name)
        except SetupError as error:
            left = registry.state(name).state
            rest = "The version that was there serves on." if left == "ready" else "The model is down."
            raise ReloadFailed(f"{error} {rest}") from None
        return Changed(status=status, model=name, seconds=round(time.monotonic() - begun, 2))

    return routes


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
        servers=[ServerStatus.of(server) for server in state.servers],
    )
