"""The composition root: builds everything from Settings, owns start and stop. Nothing else builds anything."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
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
from tingdao.api import accounts, admin, chat, native, openai, ready, servers
from tingdao.api.access import RATE_HEADERS, Access
from tingdao.api.admission import Admission
from tingdao.api.edge import Edge, answer
from tingdao.audio.decode import Decoder
from tingdao.audio.fetch import Fetcher
from tingdao.audio.speech import SpeechDetector
from tingdao.database import Database
from tingdao.engines import canary, memory, weights
from tingdao.engines.base import Engine
from tingdao.engines.offer import Offer
from tingdao.engines.qwen import runtime as qwen_runtime
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
from tingdao.settings import Section, Settings, VllmSettings
from tingdao.text.finish import Finishing
from tingdao.text.punctuation import Punctuator
from tingdao.tickets import Tickets
from tingdao.usage import Ledger

if TYPE_CHECKING:
    from tingdao.engines.aligner.engine import Aligner

PAGE = Path(__file__).parent / "web"
EMBEDDED_BYTES = 500_000_000
"""What the embedded model takes at work (459 MB measured)."""
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
    aligner = aligner_offer(settings)
    registry = Registry(offers(settings), aliases(settings), settings.models, settings.routing)
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
    problems = await service.registry.update(offers(settings), aliases(settings), settings.models, settings.routing)
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


def offers(settings: Settings) -> list[Offer[Engine]]:
    """The models that can be served, the default one first. Raises SetupError when the default is none of them.

    `auto` is Qwen3-ASR on the servers of the settings, or the first that is there and can run, else the embedded model.
    """
    folders = qwen_folders(settings)
    ours = served_by_vllm(settings)
    known = [_qwen_offer(name, folder, settings) for name, folder in folders.items() if str(folder.resolve()) != ours]
    vllm = settings.vllm.upstreams or ours
    if vllm:
        known.append(_vllm_offer(settings.vllm.model_copy(update={"serve": ours})))
    known.append(
        Offer(
            weights.WHISPER_BASE.name,
            partial(_load_embedded, settings),
            recipe=(settings.embedded, settings.models_dir),
            memory=EMBEDDED_BYTES,
            free=memory.free_memory,
        )
    )
    wanted = settings.model
    if wanted == "auto" and vllm:
        wanted = settings.vllm.name
    elif wanted == "auto":
        wanted = next(iter(folders)) if folders and qwen_runtime.any_installed() else weights.WHISPER_BASE.name
    if wanted in weights.QWEN:
        wanted = weights.QWEN[wanted].name
    elif (path := Path(wanted)).is_dir():
        wanted = path.resolve().name
    if ours and wanted in folders and str(folders[wanted].resolve()) == ours:
        wanted = settings.vllm.name
    chosen = [offer for offer in known if offer.name == wanted]
    if not chosen:
        fetch = f" `tingdao download {settings.model}` fetches it." if settings.model in weights.QWEN else ""
        raise SetupError(
            f"There is no model {settings.model!r} on this machine.{fetch} "
            f"Models: auto, {', '.join(offer.name for offer in known)}, or a folder of Qwen3-ASR."
        )
    return chosen + [offer for offer in known if offer not in chosen]


def aliases(settings: Settings) -> dict[str, str]:
    """Other names of the models: the short ones of the command line, and those of the settings."""
    there = qwen_folders(settings)
    short = {short: release.name for short, release in weights.QWEN.items() if release.name in there}
    ours = served_by_vllm(settings)
    by_vllm = {name: settings.vllm.name for name, folder in there.items() if str(folder.resolve()) == ours}
    return by_vllm | short | settings.aliases


def qwen_folders(settings: Settings) -> dict[str, Path]:
    """Qwen3-ASR on this machine by name: the folder given as the model, those of the settings, those downloaded."""
    folders = {}
    if (given := Path(settings.model)).is_dir():
        folders[given.resolve().name] = given
    folders |= settings.qwen.folders
    for release in weights.QWEN.values():
        if release.name not in folders and (folder := weights.fetched(release, settings.models_dir)):
            folders[release.name] = folder
    return folders


def served_by_vllm(settings: Settings) -> str:
    """The model that vLLM servers of this service's own serve: a folder, a repository, or empty for none.

    Raises SetupError when it is not there.
    """
    wanted, folders = settings.vllm.serve, qwen_folders(settings)
    name = weights.QWEN[wanted].name if wanted in weights.QWEN else wanted
    if folder := folders.get(name, Path(wanted) if wanted and Path(wanted).is_dir() else None):
        return str(folder.resolve())
    if wanted in weights.QWEN:
        raise SetupError(f"There is no model {wanted!r} on this machine. `tingdao download {wanted}` fetches it.")
    if wanted and "/" not in wanted:
        raise SetupError(
            f"[vllm] serve: there is no model {wanted!r} on this machine. It may be {', '.join(weights.QWEN)}, "
            "a folder, or the id of a repository on a hub, such as Qwen/Qwen3-ASR-1.7B."
        )
    return wanted


def aligner_offer(settings: Settings) -> Offer[Aligner] | None:
    """The forced aligner, where there is one."""
    folder = settings.aligner.path or weights.fetched(weights.ALIGNER, settings.models_dir)
    if folder is None:
        return None
    return Offer(
        weights.ALIGNER.name,
        partial(_load_aligner, folder, settings),
        recipe=(folder, settings.aligner),
        memory=memory.estimate(folder),
        free=partial(_free, settings.aligner.device),
    )


def _qwen_offer(name: str, folder: Path, settings: Settings) -> Offer[Engine]:
    return Offer(
        name,
        partial(_load_qwen, folder, name, settings),
        recipe=(folder, settings.qwen),
        memory=memory.estimate(folder),
        free=partial(_free, settings.qwen.device),
    )


def _vllm_offer(settings: VllmSettings) -> Offer[Engine]:
    from tingdao.engines.vllm.engine import VllmEngine

    offer = Offer(
        settings.name,
        partial(VllmEngine, settings),
        recipe=settings.model_copy(update={"upstreams": ()}),
        alone=bool(settings.serve),
        open=VllmEngine.open,
        trouble=lambda engine: engine.trouble,
        servers=lambda engine: engine.fleet,
        adopt=lambda engine: engine.fleet.follow(settings.upstreams),
    )
    return cast("Offer[Engine]", offer)


def _free(device: str) -> int:
    """Bytes free where a model of Qwen3-ASR runs. Raises SetupError for a device that is not there."""
    if not qwen_runtime.installed("torch") or not (device.startswith("cuda") or qwen_runtime.has_gpu()):
        return memory.free_memory()
    from tingdao.engines.hardware import choose_device, free_memory

    return free_memory(choose_device(device))


def _load_embedded(settings: Settings) -> Engine:
    from tingdao.engines.whisper import WhisperEngine

    folder = weights.find(weights.WHISPER_BASE, settings.models_dir, settings.embedded.path)
    return WhisperEngine.load(folder, weights.WHISPER_BASE.name, settings.embedded)


def _load_qwen(folder: Path, name: str, settings: Settings) -> Engine:
    from tingdao.engines.openvino import engine as openvino
    from tingdao.engines.qwen.engine import QwenEngine

    if qwen_runtime.choose_runtime(folder, settings.qwen) == "openvino":
        return openvino.load(folder, name, settings.qwen, settings.models_dir)
    return QwenEngine.load(folder, name, settings.qwen)


def _load_aligner(folder: Path, settings: Settings) -> Aligner:
    from tingdao.engines.aligner.engine import Aligner

    return Aligner.load(folder, settings.aligner)


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
