"""The composition root: builds everything from Settings, owns start and stop. Nothing else builds anything."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

import tingdao
from tingdao import models
from tingdao.api import accounts, admin, chat, native, openai, ready, servers
from tingdao.api.access import RATE_HEADERS, Access
from tingdao.api.admission import Admission
from tingdao.api.edge import Edge, answer
from tingdao.audio.decode import Decoder
from tingdao.audio.fetch import Fetcher
from tingdao.audio.speech import SpeechDetector
from tingdao.database import Database
from tingdao.engines import canary
from tingdao.engines.registry import Registry
from tingdao.engines.slot import Slot
from tingdao.errors import BadRequest, MethodNotAllowed, NotFound, SetupError, TingdaoError
from tingdao.keys import KeyStore
from tingdao.limits import MemoryLimits, SharedLimits
from tingdao.observe import Journal, Metrics
from tingdao.observe.traces import Traces
from tingdao.pipeline.gauges import Gauges
from tingdao.pipeline.load import Load
from tingdao.pipeline.service import Service
from tingdao.pipeline.transcribe import Transcriber
from tingdao.settings import Section, Settings
from tingdao.text.finish import Finishing
from tingdao.text.punctuation import Punctuator
from tingdao.tickets import Tickets
from tingdao.usage import Ledger

if TYPE_CHECKING:
    pass

PAGE = Path(__file__).parent / "web"
LIVE = frozenset(
    {"server", "model", "aliases", "models", "routing", "qwen", "vllm", "embedded", "limits", "vocabulary", "log"}
)
"""Settings that can be changed at run time, but for some of them."""
FIXED = frozenset(
    {"log.transcripts", *(f"server.{name}" for name in ("host", "port", "keyless", "open_metrics", "trusted_proxies"))}
)


def build(settings: Settings) -> Service:
    """The service behind the doors. Raises SetupError."""
    prepare_state(settings)
    decoder = Decoder(settings.audio, settings.temporary_dir)
    aligner = models.aligner_offer(settings)
    registry = Registry(models.offers(settings), models.aliases(settings), settings.models, settings.routing)
    return Service(
        registry=registry,
        aligner=Slot(aligner, canary.times) if aligner else None,
        decoder=decoder,
        transcriber=Transcriber(SpeechDetector(settings.audio), settings.audio.clip_limit_s),
        finishing=Finishing(settings.text, settings.vocabulary, punctuator(settings)),
        fetcher=Fetcher(settings.fetch),
        metrics=Metrics(),
        load=Load(lambda: registry.full),
    )


async def apply(settings: Settings, service: Service, door: Door) -> list[str]:
    """Serve as new settings say, as far as that goes at run time; gives what could not be done, in words.

    See `Registry.update` about the models, and `needs_restart` for the rest.
    Raises SetupError, Conflict; then the models are as before.
    """
    problems = await service.registry.update(
        models.offers(settings), models.aliases(settings), settings.models, settings.routing
    )
    service.finishing.expect(settings.vocabulary)
    door.access.limit(settings.limits, settings.server.allowed_hosts)
    door.admission.settings = settings.server
    return problems


def needs_restart(started: Settings, settings: Settings) -> list[str]:
    """Names of the settings that have changed since the start and cannot be changed at run time."""
    changed = []
    for name in Settings.model_fields:
        before, now = getattr(started, name), getattr(settings, name)
        if isinstance(now, Section):
            options = [option for option in type(now).model_fields if getattr(before, option) != getattr(now, option)]
            changed += [f"{name}.{option}" for option in options]
        elif before != now:
            changed.append(name)
    return [name for name in changed if name in FIXED or name.partition(".")[0] not in LIVE]


def punctuator(settings: Settings) -> Punctuator | None:
    """The punctuation model, where there is one. Raises SetupError."""
    if settings.text.punctuation_model is None:
        return None
    from tingdao.engines.punctuation import PunctuationModel

    return Punctuator(PunctuationModel.load(settings.text.punctuation_model))


def prepare_state(settings: Settings) -> None:
    """Make the state folder, and let every temporary file of this process live in it. Raises SetupError."""
    try:
        settings.temporary_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"The state folder {settings.state_dir} cannot be written ({error.strerror}). "
            "Set TINGDAO_STATE_DIR to a folder that can."
        ) from None
    tempfile.tempdir = str(settings.temporary_dir)


def create_app(
    settings: Settings, service: Service, traces: Traces | None = None, front: Door | None = None
) -> ASGIApp:
    """The ASGI application around a service; it starts and stops the service with itself, and ends the traces.

    front: its door, for whoever wants to change it while it serves.
    """
    front = front or door(settings, service)
    access, admission = front.access, front.admission
    journal = Journal(service.metrics, traces, transcripts=settings.log.transcripts)
    service.metrics.registry.register(Gauges(service, settings.state_dir))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.close()
            await asyncio.to_thread(access.close)
            if traces:
                await asyncio.to_thread(traces.close)

    api = FastAPI(
        title="Tingdao",
        version=tingdao.__version__,
        summary="The speech service for Qwen3-ASR: a recording in, the right transcript out.",
        lifespan=lifespan,
        # The interactive pages load scripts from elsewhere; nothing here does.
        docs_url=None,
        redoc_url=None,
    )
    api.include_router(accounts.router(access))
    api.include_router(admin.router(service, journal, settings.state_dir))
    api.include_router(servers.router(service.registry))
    api.include_router(native.router(service))
    api.include_router(ready.router(service, admission))
    api.include_router(openai.router(service))
    api.include_router(chat.router(service))

    @api.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @api.exception_handler(TingdaoError)
    async def on_error(request: Request, error: TingdaoError) -> Response:
        return answer(error, request.url.path)

    @api.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        return answer(_from_framework(error, request), request.url.path)

    @api.exception_handler(ClientDisconnect)
    async def on_leaving(_: Request, __: Exception) -> Response:
        return Response(status_code=499)  # for the log; the client left while it was sending

    @api.exception_handler(Exception)
    async def on_unexpected(request: Request, _: Exception) -> Response:
        sorry = TingdaoError("Something went wrong here, not with your request. The log has it under the request's id.")
        return answer(sorry, request.url.path)

    _add_page(api)
    _describe(api)
    served: ASGIApp = Edge(api, admission, journal, access)
    if settings.cors.origins:
        # Around the edge, so that pages can read refusals too.
        served = CORSMiddleware(
            served,
            allow_origins=settings.cors.origins,
            allow_credentials=settings.cors.credentials,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "X-Error-Code", *RATE_HEADERS],
            max_age=3600,
        )
    if settings.server.trusted_proxies:
        trusted = [str(network) for network in settings.server.trusted_proxies]
        served = cast("ASGIApp", ProxyHeadersMiddleware(cast("Any", served), trusted_hosts=trusted))
    return served


def database(settings: Settings) -> Database:
    """Where keys and their use are kept. Raises SetupError."""
    url = settings.keys.database
    return Database(url.get_secret_value() if url else None, settings.state_dir)


@dataclass(frozen=True, slots=True)
class Door:
    """Who comes in, and whether there is room."""

    access: Access
    admission: Admission


def door(settings: Settings, service: Service) -> Door:
    """Keys, quotas and limits. Raises SetupError."""
    store = database(settings)
    keys = KeyStore(store)
    access = Access(
        settings,
        keys,
        Ledger(store),
        SharedLimits(store) if store.shared else MemoryLimits(),
        Tickets(keys, settings.keys.ticket_s),
        service.metrics,
        open_paths=frozenset({"/", "/openapi.json", *(f"/{file.name}" for file in PAGE.iterdir())}),
    )
    return Door(access, Admission(settings.server, service.load))


def _describe(api: FastAPI) -> None:
    """Take out of the OpenAPI document what the framework adds and this service never answers.

    Made when it is first asked for: it takes longer than all else of building the application.
    """
    make = api.openapi

    def document() -> dict[str, Any]:
        made = make()
        for path in made["paths"].values():
            for operation in path.values():
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
        return made

    vars(api)["openapi"] = document


def _add_page(api: FastAPI) -> None:
    """Serve each file of the page by its name. A mount at `/` would answer for every path and method there is."""
    for file in sorted(PAGE.iterdir()):
        paths = ["/", "/index.html"] if file.name == "index.html" else [f"/{file.name}"]
        for path in paths:
            api.add_route(path, _sender(file), include_in_schema=False)


def _sender(file: Path) -> Callable[[Request], Awaitable[Response]]:
    async def send(_: Request) -> Response:
        return FileResponse(file)

    return send


def _from_framework(error: HTTPException, request: Request) -> TingdaoError:
    if error.status_code == 404:
        return NotFound(f"There is nothing at {request.url.path[:200]}. The paths are in /openapi.json.")
    if error.status_code == 405:
        return MethodNotAllowed(f"{request.method} is not possible at {request.url.path[:200]}.")
    return BadRequest(str(error.detail))
