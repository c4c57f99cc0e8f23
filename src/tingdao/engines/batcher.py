"""Requests from everywhere → one running batch on one model.

    run(job) ─ waiting ─► enter ─ step, step, step … ─ ended ─► back to the caller
                            ▲                  │
                            └── put back, when memory ran out or a step failed

The batch is continuous: whoever waits joins between two steps as soon as there is room, and whoever ends leaves at
once. One thread owns the model, because no model runtime lets two threads step the same batch, and because whoever
awaits must never wait for a step: callers only wait for their own future. A cancelled job leaves before the next step.

When a step fails, nobody knows whose fault it was: the newer half of the batch is put back and the rest goes on; what
fails alone fails for its own caller only. Memory that ran out halves the batch the same way. From there the batch
grows again by one row with every batch of jobs that ends.

The batcher does not know about audio, tokens or torch. It drives anything that is a `Model`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Generic, Protocol, TypeVar

from tingdao.engines.base import Ended
from tingdao.errors import EngineFailed, Overloaded
from tingdao.observe import figures

log = logging.getLogger(__name__)

BACKLOG = 4096
"""Jobs that may wait. Admission ends far below; this only keeps a mistake elsewhere from filling the memory."""


class Job(Protocol):
    """A piece of work; it remembers what has been done, so that it can be put back and started again."""

    ended: Ended | None


J = TypeVar("J", bound=Job)


class Model(Protocol[J]):
    """What the batcher drives, from one thread.

    `enter` and `step` raise MemoryError when memory runs out. After any error of theirs `leave` works.
    """

    def cost(self, job: J) -> int:
        """What a job takes of the budget while it is in the batch."""
        ...

    def enter(self, job: J) -> None:
        """Take a job into the batch."""
        ...

    def step(self) -> Sequence[J]:
        """Take the batch one step on; returns the jobs that moved. Those with `ended` set are through."""
        ...

    def leave(self, job: J) -> None:
        """Take a job out of the batch, through or not."""
        ...


class Batcher(Generic[J]):
    """The running batch of one model.

    width: jobs in the batch at most. budget: what their costs may add up to; a job that is larger runs alone.
    wait: seconds that an idle model waits for company after the first job. name: of the model, for the operator.
    """

    def __init__(self, model: Model[J], *, width: int, budget: int, wait: float, name: str = "model") -> None:
        self._model, self._width, self._budget, self._wait, self._name = model, width, budget, wait, name
        self._waiting: deque[_Ticket[J]] = deque()
        self._batch: dict[J, _Ticket[J]] = {}
        self._room = float(width)
        self._steps = self._rows = 0  # so far, and the sizes of the batch in all of them
        self._changed = threading.Condition()
        self._over: str | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, job: J) -> None:
        """Wait until a job is through. Cancelling frees its place. Raises EngineFailed, Overloaded."""
        async for _ in self._follow(_Ticket(job, watched=False)):
            pass

    def watch(self, job: J) -> AsyncGenerator[None, None]:
        """Yield whenever a job has moved, until it is through. Closing it frees the job's place. Raises as `run`."""
        return self._follow(_Ticket(job, watched=True))

    async def _follow(self, ticket: _Ticket[J]) -> AsyncGenerator[None, None]:
        with self._changed:
            if self._over:
                raise EngineFailed(self._over)
            if len(self._waiting) >= BACKLOG:
                raise Overloaded("Too much is waiting for this model. Try again in a moment.", retry_after=5)
            self._waiting.append(ticket)
            self._changed.notify()
        try:
            while await ticket.moved():
                yield
            figures.get().shared(self._name, ticket.rows)
        finally:
            ticket.given_up = True
            with self._changed:
                self._changed.notify()

    async def close(self) -> None:
        """End everything: all callers get EngineFailed at once, and the thread ends after the step it is in."""
        self._end("The model is being shut down. Try again.")
        await asyncio.to_thread(self._thread.join)

    def _end(self, why: str) -> None:
        with self._changed:
            self._over = self._over or why
            for ticket in [*self._waiting, *list(self._batch.values())]:
                ticket.fail(EngineFailed(self._over))
            self._waiting.clear()
            self._changed.notify()

    def _work(self) -> None:
        try:
            while self._gather():
                self._admit()
                if self._batch:
                    self._step()
        except Exception:
            log.exception("the model's thread died")
        finally:
            self._end("The model has stopped working; the operator finds the reason in the log.")
            for job in list(self._batch):
                self._leave(job)

    def _gather(self) -> bool:
        """Wait for work, and with an idle model for a little company; False when all is over."""
        with self._changed:
            if not self._batch and not self._waiting:
                self._changed.wait_for(lambda: self._waiting or self._over)
                begun = time.monotonic()
                while not self._over and len(self._waiting) < self._width:
                    left = begun + self._wait - time.monotonic()
                    if left <= 0 or not self._changed.wait(left):
                        break
            return not self._over

    def _admit(self) -> None:
        """Let go of who gave up, then fill the batch in the order of arrival."""
        for job, ticket in list(self._batch.items()):
            if ticket.given_up:
                self._leave(job)
        while newcomer := self._next():
            self._batch[newcomer.job] = newcomer
            newcomer.joined = (self._steps, self._rows)
            try:
                self._model.enter(newcomer.job)
            except MemoryError as error:
                self._part(error, [newcomer.job])
                return
            except Exception as error:  # noqa: BLE001  whatever it is, it belongs to this job
                self._fail(error, newcomer.job)

    def _next(self) -> _Ticket[J] | None:
        """Who joins next: the first that waits, if there is room for it. Nobody overtakes, so nobody starves."""
        with self._changed:
            while self._waiting and self._waiting[0].given_up:
                self._waiting.popleft()
            if not self._waiting or len(self._batch) >= int(self._room):
                return None
            taken = sum(self._model.cost(job) for job in self._batch)
            if self._batch and taken + self._model.cost(self._waiting[0].job) > self._budget:
                return None
            return self._waiting.popleft()

    def _step(self) -> None:
        try:
            moved = self._model.step()
        except Exception as error:  # noqa: BLE001  one job's fault must not end the others
            jobs = list(self._batch)
            self._part(error, jobs[len(jobs) // 2 :])
            return
        self._steps, self._rows = self._steps + 1, self._rows + len(self._batch)
        for job in moved:
            ticket = self._batch[job]
            if job.ended:
                self._room = min(self._width, self._room + 1 / self._room)
                self._leave(job)
                steps, rows = ticket.joined
                ticket.rows = (self._rows - rows) / (self._steps - steps)
                ticket.finish()
            elif ticket.watched:
                ticket.move()

    def _part(self, error: Exception, jobs: list[J]) -> None:
        """After an error that may be anyone's: put the given jobs back, or fail the only one."""
        if len(self._batch) == 1:
            self._fail(error, jobs[0])
            return
        log.warning("a step failed; a part of the batch starts again", exc_info=error, extra={"rows": len(self._batch)})
        tickets = [self._leave(job) for job in jobs]
        self._room = float(len(self._batch))
        with self._changed:
            self._waiting.extendleft(reversed(tickets))

    def _fail(self, error: Exception, job: J) -> None:
        log.error("the model failed", exc_info=error)
        what = "ran out of memory" if isinstance(error, MemoryError) else "failed"
        self._leave(job).fail(EngineFailed(f"The model {what} on a part of this recording. Try again, or in parts."))

    def _leave(self, job: J) -> _Ticket[J]:
        self._model.leave(job)
        return self._batch.pop(job)


class _Ticket(Generic[J]):
    """A job on its way, and how the model's thread tells its caller, who may be long gone.

    joined: steps, and rows of all steps, when it came into the batch. rows: of the batch, on average while it was in.
    """

    def __init__(self, job: J, *, watched: bool) -> None:
        self.job, self.watched, self.given_up = job, watched, False
        self.joined, self.rows = (0, 0), 0.0
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._error: EngineFailed | None = None
        self._through = False

    async def moved(self) -> bool:
        """Wait for news: True when the job moved, False when it is through. Raises what it failed with."""
        await self._news.wait()
        self._news.clear()
        if self._error:
            raise self._error
        return not self._through

    def move(self) -> None:
        """Tell that the job moved."""
        # RuntimeError: the caller's event loop is closed, nobody waits any more.
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:
            self.given_up = True

    def finish(self) -> None:
        """Tell that the job is through."""
        self._through = True
        self.move()

    def fail(self, error: EngineFailed) -> None:
        """Tell that the job failed."""
        self._error = error
        self.move()
