"""The servers that a model runs on, for operators: `POST /admin/…-server` to add, drain, resume and remove them."""

from __future__ import annotations

import logging
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from tingdao.api.choice import ModelChoice, body_of, read
from tingdao.api.edge import CHANGING, OpenAIError, errors_of
from tingdao.caller import caller
from tingdao.engines.base import Ability
from tingdao.engines.registry import Registry
from tingdao.engines.servers import Change, Server, State

log = logging.getLogger(__name__)

Done = Literal["added", "drained", "resumed", "removed"]


class ServerStatus(BaseModel):
    """One server of a model now."""

    server: str = Field(description="Its URL, with the address where the URL has a name.")
    state: State = Field(description="`draining`: no new calls, by an operator's wish; `leaving`: for good.")
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

    @classmethod
    def of(cls, server: Server) -> ServerStatus:
        """What is known of a server, as it is shown."""
        return cls(
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


class ServerChoice(ModelChoice):
    """Which server."""

    server: str = Field(
        description="Its URL, for all servers behind it; or one as the status names it.", examples=["http://gpu3:8000"]
    )


class ServersChanged(BaseModel):
    """What was done, and the servers of the model since."""

    status: Done
    model: str
    server: str = Field(description="As it was asked for.")
    reason: str | None = Field(description="Why the model cannot answer now; null while it can.")
    servers: list[ServerStatus]


def router(registry: Registry) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/admin", tags=["operators"], responses=errors_of(OpenAIError, CHANGING))
    body = body_of(ServerChoice, required=True)

    @routes.post("/add-server", summary="Have one more server", response_model=ServersChanged, **body)
    async def add(request: Request) -> ServersChanged:
        return await changed(request, "add", "added")

    @routes.post("/drain-server", summary="Send a server no new calls", response_model=ServersChanged, **body)
    async def drain(request: Request) -> ServersChanged:
        return await changed(request, "drain", "drained")

    @routes.post("/resume-server", summary="Send a drained server calls again", response_model=ServersChanged, **body)
    async def resume(request: Request) -> ServersChanged:
        return await changed(request, "resume", "resumed")

    @routes.post("/remove-server", summary="Have a server no more", response_model=ServersChanged, **body)
    async def remove(request: Request) -> ServersChanged:
        return await changed(request, "remove", "removed")

    async def changed(request: Request, change: Change, done: Done) -> ServersChanged:
        choice = await read(request, ServerChoice)
        state = await registry.change_server(choice.model, change, choice.server)
        who = caller.get()
        log.info(
            "servers changed",
            extra={"change": done, "server": choice.server, "model": state.name}
            | {"key": who.name, "client": who.address},
        )
        return ServersChanged(
            status=done,
            model=state.name,
            server=choice.server,
            reason=state.reason,
            servers=[ServerStatus.of(server) for server in state.servers],
        )

    return routes
