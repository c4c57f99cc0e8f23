"""What one request takes: seconds by stage, audio, model; filled in wherever the work is done.

Clips of a request are in work side by side, so the seconds of a stage are those of the clock on the wall in which at
least one of them was in it: no stage is longer than the request. Waiting counts only while nothing of the request is
being recognised, since what waits then costs it nothing.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from types import TracebackType
from typing import Literal, Protocol, Self

from tingdao.observe.metrics import Metrics

Stage = Literal["queue", "decode", "recognise", "align"]
"""queue: for a decoder, a model or a turn at it. The others are work."""

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the request that the running code works for."""


class Span(Protocol):
    """A piece of a trace, which somebody elsewhere may look at."""

    trace_id: str

    def child(self, name: str, attributes: dict[str, str | int | float]) -> Span:
        """Begin a piece of this one."""
        ...

    def end(self, error: str | None, attributes: dict[str, str | int | float]) -> None:
        """End it; `error` names what it failed with."""
        ...


class Figures:
    """One request. Used from one event loop.

    key: its name. client: address that it came from.
    audio: seconds of the recording that were worked on. first_text: seconds from its beginning to the first words.
    error: code of what it failed with after its answer had begun. transcript: its text, which goes nowhere unless the
    operator asks for it.
    """

    def __init__(self, metrics: Metrics | None = None, span: Span | None = None) -> None:
        self.id = ""
        self.began = time.monotonic()
        self.since = time.time()
        self.method, self.path = "", ""
        self.key: str | None = None
        self.client = ""
        self.model: str | None = None
        self.audio = 0.0
        self.clips = 0
        self.first_text: float | None = None
        self.error: str | None = None
        self.transcript: str | None = None
        self.metrics, self.span = metrics, span
        self._seconds: dict[Stage, float] = dict.fromkeys(("queue", "decode", "recognise", "align"), 0.0)
        self._within: dict[Stage, int] = dict.fromkeys(self._seconds, 0)
        self._counted = self.began

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    @property
    def stages(self) -> list[Stage]:
        """What it is at now."""
        return [stage for stage, count in self._within.items() if count]

    def seconds(self, stage: Stage) -> float:
        """Seconds of a stage so far."""
        self._count()
        return self._seconds[stage]

    def enter(self, stage: Stage, change: int) -> None:
        """One clip more, or less with -1, is in a stage."""
        self._count()
        self._within[stage] += change

    def heard(self) -> None:
        """There are words."""
        if self.first_text is None:
            self.first_text = self.elapsed
            if self.metrics:
                self.metrics.first_text_seconds.labels(self.model).observe(self.first_text)

    def shared(self, model: str, rows: float) -> None:
        """A clip was recognised in a batch of so many, on average over its steps."""
        if self.metrics:
            self.metrics.batch_size.labels(model).observe(rows)

    def _count(self) -> None:
        now = time.monotonic()
        for stage, count in self._within.items():
            if count and not (stage == "queue" and self._within["recognise"]):
                self._seconds[stage] += now - self._counted
        self._counted = now


class Running:
    """A stage that has begun, for one clip or recording: a context manager, or ended by `end`."""

    def __init__(self, mine: Figures, stage: Stage, attributes: dict[str, str | int | float]) -> None:
        self._figures, self._stage = mine, stage
        self._began = time.monotonic()
        self._over = False
        self._span = mine.span.child(stage, attributes) if mine.span else None
        mine.enter(stage, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(kind.__name__ if kind else None)

    def end(self, error: str | None = None) -> None:
        """End it; more than once is the same as once."""
        if self._over:
            return
        self._over = True
        self._figures.enter(self._stage, -1)
        if self._span:
            self._span.end(error, {})
        if self._figures.metrics and self._stage in {"recognise", "align"} and error is None:
            kind = self._figures.metrics.clip_seconds[self._stage]
            kind.labels(self._figures.model).observe(time.monotonic() - self._began)


figures: ContextVar[Figures] = ContextVar("figures", default=Figures())  # noqa: B039  nobody reads this one
"""Those of the request that the running code works for. Outside requests: some that lead nowhere."""


def during(stage: Stage, **attributes: str | float) -> Running:
    """Say that the request is at a stage, for as long as the block or until `end`. attributes: for traces."""
    return Running(figures.get(), stage, attributes)
