"""Fakes at the seams, and a service around them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx2
import pytest

import fake_hub
from tingdao import app
from tingdao.audio.decode import Decoder
from tingdao.audio.fetch import Fetcher
from tingdao.audio.speech import SpeechDetector
from tingdao.engines.base import Ask, ModelCard, Partial, Recognition
from tingdao.engines.offer import Offer
from tingdao.engines.registry import Registry
from tingdao.observe import Metrics
from tingdao.pipeline.load import Load
from tingdao.pipeline.service import Service
from tingdao.pipeline.transcribe import Transcriber
from tingdao.settings import Settings
from tingdao.text.finish import Finishing
from tingdao.types import Clip, Usage

RECORDINGS = Path(__file__).parent / "recordings"


class FakeEngine:
    """Answers with the clip's start; records what it was asked, and can be held, delayed or made to fail."""

    def __init__(self, *, can=("words", "context", "force_language"), width=2, clip_limit=30.0, name="fake"):
        self.card = ModelCard(name, "fake", frozenset({"en", "zh", "de"}), clip_limit, width, frozenset(can))
        self.asked: list[tuple[Clip, Ask]] = []
        self.cancelled = 0
        self.running = 0
        self.most_running = 0
        self.hold: asyncio.Event | None = None
        self.fail: Exception | None = None
        self.answer = lambda clip, ask: Recognition(
            text=f"from {clip.start:.1f}", language=ask.language or "en", usage=Usage(3, 5)
        )
        self.closed = False

    async def recognise(self, clip: Clip, ask: Ask) -> Recognition:
        self.asked.append((clip, ask))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self.hold:
                await self.hold.wait()
            await asyncio.sleep(0)
            if self.fail:
                raise self.fail
            return self.answer(clip, ask)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def recognise_stream(self, clip: Clip, ask: Ask) -> AsyncIterator[Partial]:
        recognition = await self.recognise(clip, ask)
        yield Partial(recognition.text, recognition)

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def recordings():
    return RECORDINGS


@pytest.fixture
def hub(monkeypatch):
    """Both model hubs, in place of the real ones."""
    with fake_hub.serving() as (kind, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", address)
        yield kind


class Client:
    """Requests against the application in this process, without a server."""

    def __init__(self, settings: Settings, *engines: FakeEngine) -> None:
        app.prepare_state(settings)
        self.settings = settings
        self.engine = engines[0]
        offers = [Offer(engine.card.name, lambda engine=engine: engine) for engine in engines]
        decoder = Decoder(settings.audio, settings.temporary_dir)
        registry = Registry(offers, settings.aliases, settings.models, settings.routing)
        self.service = Service(
            registry=registry,
            aligner=None,
            decoder=decoder,
            transcriber=Transcriber(SpeechDetector(settings.audio), settings.audio.clip_limit_s),
            finishing=Finishing(settings.text, settings.vocabulary),
            fetcher=Fetcher(settings.fetch),
            metrics=Metrics(),
            load=Load(lambda: registry.full),
        )
        self.door = app.door(settings, self.service)
        self.app = app.create_app(settings, self.service, front=self.door)
        self._kept: tuple[asyncio.Runner, httpx2.AsyncClient] | None = None

    def request(self, method: str, path: str, **kwargs) -> httpx2.Response:
        """One request in an event loop of its own, or in that of `kept`."""
        if self._kept:
            runner, http = self._kept
            return runner.run(http.request(method, path, **kwargs))

        async def main() -> httpx2.Response:
            async with self.session() as http:
                return await http.request(method, path, **kwargs)

        return asyncio.run(main())

    def get(self, path: str, **kwargs) -> httpx2.Response:
        return self.request("GET", path, **kwargs)

    def post(self, path: str, **kwargs) -> httpx2.Response:
        return self.request("POST", path, **kwargs)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[httpx2.AsyncClient]:
        """A started service and a client for it, within a running event loop."""
        await self.service.start()
        try:
            transport = httpx2.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport, base_url="http://test", timeout=60) as http:
                yield http
        finally:
            await self.service.close()

    @contextmanager
    def kept(self) -> Iterator[Client]:
        """The service, started once for all requests within."""
        with asyncio.Runner() as runner:
            session = self.session()
            self._kept = runner, runner.run(session.__aenter__())
            try:
                yield self
            finally:
                self._kept = None
                runner.run(session.__aexit__(None, None, None))

    def leftovers(self) -> list[Path]:
        """Named files in the folder for temporary ones."""
        return list(self.settings.temporary_dir.rglob("*"))


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A client that a whole module shares, with its service started."""
    before = tempfile.tempdir
    with Client(Settings(state_dir=tmp_path_factory.mktemp("shared")), FakeEngine()).kept() as client:
        yield client
    tempfile.tempdir = before


@pytest.fixture
def shared(started):
    """The client that the module shares, with its engine as if new."""
    vars(started.engine).update(vars(FakeEngine()))
    return started


@pytest.fixture
def make_client(tmp_path, monkeypatch):
    """Build a client; engines, the default one first, and sections of settings as keyword arguments."""
    monkeypatch.setattr(tempfile, "tempdir", None)  # `prepare_state` sets it; this puts it back

    def make(*engines: FakeEngine, **sections) -> Client:
        settings = Settings(state_dir=tmp_path / "state", **sections)
        return Client(settings, *(engines or [FakeEngine()]))

    return make


@pytest.fixture
def client(make_client):
    return make_client()
