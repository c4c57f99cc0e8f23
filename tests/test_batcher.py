"""The batcher with a model that only counts: who is in the batch at each step, and who learns what."""

import asyncio
import threading
import time
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from tingdao.engines import batcher
from tingdao.engines.base import Ended
from tingdao.engines.batcher import Batcher
from tingdao.errors import EngineFailed, Overloaded


@dataclass(eq=False)
class Work:
    """A job of so many steps. `done` counts them, also over starts."""

    name: str
    steps: int = 3
    size: int = 1
    poison: Exception | None = None
    ended: Ended | None = None
    done: int = 0


@dataclass
class CountingModel:
    """Steps only when let; notes who was in the batch at every step."""

    fits: int = 1000
    batch: list[Work] = field(default_factory=list)
    entered: list[str] = field(default_factory=list)
    steps: list[set[str]] = field(default_factory=list)
    largest: int = 0
    gate: threading.Semaphore | None = None

    def cost(self, job):
        return job.size

    def enter(self, job):
        self.entered.append(job.name)
        if isinstance(job.poison, ValueError):
            raise job.poison
        self.batch.append(job)

    def step(self):
        if self.gate:
            assert self.gate.acquire(timeout=10)
        self.steps.append({job.name for job in self.batch})
        self.largest = max(self.largest, len(self.batch))
        if len(self.batch) > self.fits:
            raise MemoryError("too many rows")
        for job in self.batch:
            if job.poison:
                raise job.poison
        for job in self.batch:
            job.done += 1
            if job.done >= job.steps:
                job.ended = "stop"
        return list(self.batch)

    def leave(self, job):
        if job in self.batch:
            self.batch.remove(job)


@asynccontextmanager
async def running(model, *, width=8, budget=1000, wait=0.02):
    made = Batcher(model, width=width, budget=budget, wait=wait)
    try:
        yield made
    finally:
        if model.gate:
            model.gate.release(1000)
        await made.close()


async def until(condition):
    """Wait for the model's thread to get somewhere; a test that waits in vain fails here."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to that")


def held():
    return CountingModel(gate=threading.Semaphore(0))


def test_jobs_that_arrive_together_run_together():
    async def main():
        model, jobs = CountingModel(), [Work(str(number), steps=number + 1) for number in range(4)]
        async with running(model, wait=0.2) as batch:
            await asyncio.gather(*(batch.run(job) for job in jobs))
        assert [job.ended for job in jobs] == ["stop"] * 4
        assert model.steps == [{"0", "1", "2", "3"}, {"1", "2", "3"}, {"2", "3"}, {"3"}]
        assert model.batch == []

    asyncio.run(main())


def test_a_full_batch_does_not_wait_for_company():
    async def main():
        begun = time.monotonic()
        async with running(CountingModel(), width=2, wait=30) as batch:
            await asyncio.gather(batch.run(Work("a")), batch.run(Work("b")))
        assert time.monotonic() - begun < 10

    asyncio.run(main())


def test_newcomers_join_between_steps_and_take_the_places_of_those_who_end():
    async def main():
        model = held()
        async with running(model, width=2, wait=0) as batch:
            first = asyncio.create_task(batch.run(Work("first", steps=4)))
            await until(lambda: model.entered == ["first"])
            model.gate.release(1)
            await until(lambda: len(model.steps) == 1)
            others = [asyncio.create_task(batch.run(Work(name, steps=1))) for name in ("second", "third")]
            await until(lambda: len(batch._waiting) == 2)
            model.gate.release(100)
            await asyncio.gather(first, *others)
        # The step that was under way when they came goes on without them.
        assert model.steps == [{"first"}, {"first"}, {"first", "second"}, {"first", "third"}]

    asyncio.run(main())


def test_budget_and_order_nobody_overtakes():
    async def main():
        model = CountingModel()
        sizes = {"a": 6, "b": 6, "c": 1, "d": 20, "e": 1}
        async with running(model, budget=10, wait=0.2) as batch:
            await asyncio.gather(*(batch.run(Work(name, size=size, steps=1)) for name, size in sizes.items()))
        assert model.entered == list("abcde")
        # b and c fit together; d is larger than the whole budget and runs alone.
        assert model.steps == [{"a"}, {"b", "c"}, {"d"}, {"e"}]

    asyncio.run(main())


def test_a_cancelled_job_is_gone_at_the_next_step_and_its_neighbour_goes_on():
    async def main():
        model, stays, goes = held(), Work("stays", steps=5), Work("goes", steps=100)
        async with running(model, wait=0.2, width=2) as batch:
            tasks = [asyncio.create_task(batch.run(job)) for job in (stays, goes)]
            await until(lambda: len(model.entered) == 2)
            model.gate.release(2)
            await until(lambda: len(model.steps) == 2)
            tasks[1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[1]
            model.gate.release(100)
            await tasks[0]
        assert stays.ended == "stop"
        # The third step had begun when the cancellation came.
        assert model.steps[3:] == [{"stays"}] * 2
        assert goes.done <= 3

    asyncio.run(main())


def test_a_job_that_is_cancelled_while_it_waits_never_enters():
    async def main():
        model = held()
        async with running(model, width=1, wait=0) as batch:
            first = asyncio.create_task(batch.run(Work("first")))
            await until(lambda: model.entered == ["first"])
            waits, last = (asyncio.create_task(batch.run(Work(name))) for name in ("waits", "last"))
            await until(lambda: len(batch._waiting) == 2)
            waits.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waits
            model.gate.release(100)
            await asyncio.gather(first, last)
        assert model.entered == ["first", "last"]

    asyncio.run(main())


def test_a_job_that_cannot_enter_fails_alone():
    async def main():
        model, good = CountingModel(), [Work("a"), Work("b")]
        bad = Work("bad", poison=ValueError("no such thing"))
        async with running(model, wait=0.2) as batch:
            outcomes = await asyncio.gather(
                *(batch.run(job) for job in (good[0], bad, good[1])), return_exceptions=True
            )
        assert [type(outcome) for outcome in outcomes] == [type(None), EngineFailed, type(None)]
        assert "no such thing" not in str(outcomes[1])

    asyncio.run(main())


@pytest.mark.parametrize("place", range(5))
def test_a_job_that_breaks_the_step_fails_and_its_neighbours_do_not(place):
    async def main():
        jobs = [Work(str(number)) for number in range(5)]
        jobs[place].poison = RuntimeError("bad row")
        async with running(CountingModel(), wait=0.2) as batch:
            outcomes = await asyncio.gather(*(batch.run(job) for job in jobs), return_exceptions=True)
        failed = [isinstance(outcome, EngineFailed) for outcome in outcomes]
        assert failed == [number == place for number in range(5)]
        assert [job.ended for job in jobs if not job.poison] == ["stop"] * 4

    asyncio.run(main())


def test_memory_that_runs_out_halves_the_batch_and_all_get_through():
    async def main():
        model, jobs = CountingModel(fits=3), [Work(str(number), steps=4) for number in range(8)]
        async with running(model, wait=0.2) as batch:
            await asyncio.gather(*(batch.run(job) for job in jobs))
        assert [job.ended for job in jobs] == ["stop"] * 8
        sizes = [len(step) for step in model.steps]
        assert sizes[:3] == [8, 4, 2]
        # Afterwards it only ever tries one row more than what went well.
        assert max(sizes[2:]) <= 4

    asyncio.run(main())


def test_the_batch_grows_back_to_its_width_when_memory_is_there_again():
    async def main():
        model = CountingModel(fits=1)
        async with running(model, width=4, wait=0.2) as batch:
            await asyncio.gather(*(batch.run(Work(str(number))) for number in range(4)))
            model.fits, model.largest = 1000, 0
            for _ in range(4):
                await asyncio.gather(*(batch.run(Work(str(number))) for number in range(4)))
            assert model.largest == 4

    asyncio.run(main())


def test_a_job_too_large_for_the_memory_fails_and_the_next_one_runs():
    async def main():
        model, large = CountingModel(), Work("large", poison=MemoryError())
        async with running(model) as batch:
            with pytest.raises(EngineFailed, match="ran out of memory"):
                await batch.run(large)
            await batch.run(Work("small"))

    asyncio.run(main())


def test_close_ends_everything_at_once_even_in_the_middle_of_a_step():
    async def main():
        model = held()
        made = Batcher(model, width=1, budget=10, wait=0)
        tasks = [asyncio.create_task(made.run(Work(name))) for name in ("runs", "waits")]
        await until(lambda: model.entered == ["runs"])
        closing = asyncio.create_task(made.close())
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 2)
        assert [type(outcome) for outcome in outcomes] == [EngineFailed, EngineFailed]
        model.gate.release(1)
        await asyncio.wait_for(closing, 2)
        assert model.batch == []
        assert not made._thread.is_alive()
        with pytest.raises(EngineFailed, match="shut down"):
            await made.run(Work("late"))

    asyncio.run(main())


def test_a_dead_thread_is_reported_and_not_waited_for():
    class Broken(CountingModel):
        def cost(self, job):
            raise SystemError("a bug")

    async def main():
        made = Batcher(Broken(), width=2, budget=10, wait=0)
        await until(lambda: made._thread.is_alive())
        with pytest.raises(EngineFailed):
            await asyncio.wait_for(asyncio.gather(made.run(Work("a")), made.run(Work("b"))), 5)
        await until(lambda: not made._thread.is_alive())
        with pytest.raises(EngineFailed, match="stopped working"):
            await made.run(Work("c"))
        await made.close()

    asyncio.run(main())


def test_watching_tells_every_move_and_closing_it_frees_the_place():
    async def main():
        model, job = CountingModel(), Work("a", steps=5)
        async with running(model, wait=0) as batch:
            moves = [job.done async for _ in batch.watch(job)]
            assert moves == sorted(moves)
            assert job.ended == "stop"
            endless = Work("endless", steps=10**9)
            async with aclosing(batch.watch(endless)) as watching:
                async for _ in watching:
                    break
            await until(lambda: model.batch == [])

    asyncio.run(main())


def test_more_than_the_backlog_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(batcher, "BACKLOG", 2)

    async def main():
        model = held()
        async with running(model, width=1, wait=0) as batch:
            tasks = [asyncio.create_task(batch.run(Work("runs")))]
            await until(lambda: model.entered == ["runs"])
            tasks += [asyncio.create_task(batch.run(Work(name))) for name in ("a", "b")]
            await until(lambda: len(batch._waiting) == 2)
            with pytest.raises(Overloaded):
                await batch.run(Work("c"))
            model.gate.release(1000)
            await asyncio.gather(*tasks)

    asyncio.run(main())


def test_callers_of_several_event_loops_share_a_batch():
    model = CountingModel()
    made = Batcher(model, width=4, budget=10, wait=0.3)
    jobs = [Work("a"), Work("b")]
    threads = [threading.Thread(target=lambda job=job: asyncio.run(made.run(job))) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [job.ended for job in jobs] == ["stop", "stop"]
    assert {"a", "b"} in model.steps
    asyncio.run(made.close())
