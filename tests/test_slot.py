"""One model: loaded once, lent, replaced while it serves, unloaded."""

import asyncio
import threading
import time
from typing import ClassVar

import pytest

from tingdao.engines import loading
from tingdao.engines import slot as slots
from tingdao.engines.offer import Offer
from tingdao.engines.slot import Slot
from tingdao.errors import Conflict, ModelUnavailable, SetupError


class Model:
    """Counts how many of it there are."""

    alive: ClassVar[set["Model"]] = set()

    def __init__(self, *, hears=True):
        self.hears, self.closed = hears, False
        self.alive.add(self)

    async def close(self):
        self.closed = True
        self.alive.discard(self)


async def canary(model):
    await asyncio.sleep(0)
    if isinstance(model.hears, Exception):
        raise model.hears
    return model.hears


@pytest.fixture(autouse=True)
def nothing_is_left():
    Model.alive.clear()
    yield
    assert not Model.alive


def slot_of(*outcomes, **kwargs):
    """A slot whose loads come out like this, one after the other; the last one again and again."""
    left = list(outcomes) or [Model]

    def load():
        outcome = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome()

    return Slot(Offer("a", load), canary, **kwargs)


def run(work, slot):
    async def main():
        try:
            await work(slot)
        finally:
            await slot.close()

    asyncio.run(main())


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  there is no event for what is looked at here
            await asyncio.sleep(0.002)


class TestLoading:
    def test_many_share_one_load(self):
        loads = []

        async def work(slot):
            assert slot.state == "idle"

            async def use():
                async with slot.lease() as model:
                    return model

            users = [asyncio.create_task(use()) for _ in range(20)]
            await asyncio.sleep(0)
            assert slot.state == "loading"
            assert len(set(await asyncio.gather(*users))) == len(loads) == 1
            assert slot.state == "ready"

        run(work, slot_of(lambda: loads.append(1) or Model()))

    @pytest.mark.parametrize("error", [SetupError("no weights: run this"), ValueError("strange")])
    def test_a_failure_is_a_clear_503_and_not_tried_again_at_once(self, error):
        async def work(slot):
            for _ in range(3):
                with pytest.raises(ModelUnavailable) as caught:
                    async with slot.lease():
                        pass
            assert "tingdao check" in caught.value.message
            assert str(error) not in caught.value.message
            assert 0 < caught.value.retry_after <= slots.FIRST_RETRY
            assert slot.state == "failed"
            assert slot.down
            assert str(error) in slot.reason

        outcomes = [error, AssertionError("loaded again")]
        run(work, slot_of(*outcomes))

    @pytest.mark.parametrize("keep", [True, False])
    def test_it_is_tried_again_later_and_later(self, monkeypatch, keep):
        monkeypatch.setattr(slots, "FIRST_RETRY", 0.05)
        tries = []

        def fail():
            tries.append(time.monotonic())
            raise SetupError("no weights")

        async def work(slot):
            slot.begin()
            if keep:  # by itself
                await until(lambda: slot.state == "ready")
            else:  # by the first request after the time
                await until(lambda: slot.state == "failed")
                await asyncio.sleep(0.2)
                assert len(tries) == 1
                with pytest.raises(ModelUnavailable):
                    async with slot.lease():
                        pass
                await asyncio.sleep(0.12)
                async with slot.lease():
                    pass
            assert slot.reason is None
            first, second = tries
            assert second - first > 0.04
            assert not slot.down

        run(work, slot_of(fail, fail, Model, keep=keep))

    def test_the_wait_has_an_end(self, monkeypatch):
        monkeypatch.setattr(slots, "FIRST_RETRY", 0.001)
        monkeypatch.setattr(slots, "LAST_RETRY", 0.004)

        async def work(slot):
            waits = []
            for _ in range(5):
                with pytest.raises(SetupError):
                    await slot.load()
                waits.append(slot._failure.again - time.monotonic())
            assert max(waits) <= 0.004

        run(work, slot_of(SetupError("no"), keep=False))

    def test_an_operator_need_not_wait(self):
        async def work(slot):
            with pytest.raises(SetupError, match="no weights"):
                await slot.load()
            await slot.load()
            assert slot.state == "ready"

        run(work, slot_of(SetupError("no weights"), Model))

    def test_who_leaves_does_not_stop_the_load_for_others(self):
        async def work(slot):
            async def use():
                async with slot.lease() as model:
                    return model

            impatient = asyncio.create_task(use())
            await asyncio.sleep(0)
            impatient.cancel()
            assert isinstance(await use(), Model)

        run(work, slot_of())

    def test_it_can_be_used_again_after_it_was_closed(self):
        slot = slot_of()
        for _ in range(2):
            run(Slot.load, slot)


class TestReplacing:
    def test_the_old_one_ends_with_its_last_use(self):
        async def work(slot):
            async with slot.lease() as old:
                await slot.replace()
                assert slot.model is not old
                assert slot.retiring == 1
                async with slot.lease() as new:
                    assert new is slot.model
                await asyncio.sleep(0.02)
                assert not old.closed
            await until(lambda: old.closed and not slot.retiring)
            assert len(Model.alive) == 1

        run(work, slot_of())

    def test_there_are_never_more_than_two(self):
        async def work(slot):
            async with slot.lease() as first:
                await slot.replace()
                second = asyncio.create_task(slot.replace())
                await asyncio.sleep(0.05)
                assert not second.done()
                assert {first, slot.model} == Model.alive
            await second
            assert first.closed

        run(work, slot_of())

    def test_calls_that_never_end_do_not_hold_it_for_ever(self, monkeypatch):
        monkeypatch.setattr(slots, "LAST_CALLS_SECONDS", 0.05)

        async def work(slot):
            async with slot.lease() as stuck:
                await slot.replace()
                await until(lambda: stuck.closed)

        run(work, slot_of())

    def test_the_old_one_serves_while_the_new_one_loads(self):
        go_on = threading.Event()

        async def work(slot):
            await slot.load()
            old = slot.model
            change = asyncio.create_task(slot.replace())
            await until(lambda: slot.reloading)
            async with slot.lease() as model:
                assert model is old
            with pytest.raises(Conflict):
                await slot.replace()
            go_on.set()
            await change
            assert slot.model is not old

        run(work, slot_of(Model, lambda: go_on.wait(5) and Model()))

    @pytest.mark.parametrize(
        ("bad", "why"),
        [
            (SetupError("no weights"), "no weights"),
            (ValueError("strange"), "ValueError: strange"),
            (lambda: Model(hears=False), "makes nothing of the canary"),
            (lambda: Model(hears=ValueError("crash")), "ValueError: crash"),
        ],
    )
    def test_a_bad_one_never_serves(self, bad, why):
        async def work(slot):
            await slot.load()
            old = slot.model
            with pytest.raises(SetupError, match=why):
                await slot.replace()
            assert slot.model is old
            assert slot.state == "ready"
            assert {old} == Model.alive
            assert slot.reason is None

        run(work, slot_of(Model, bad))

    def test_one_that_takes_for_ever_never_serves(self, monkeypatch):
        monkeypatch.setattr(loading, "CANARY_SECONDS", 0.05)

        async def patient(model):
            await asyncio.sleep(0 if model is first else 60)
            return True

        first = Model()
        outcomes = [first, Model()]

        async def work(slot):
            await slot.load()
            with pytest.raises(SetupError, match="took more than"):
                await slot.replace()
            assert slot.model is first

        run(work, Slot(Offer("a", lambda: outcomes.pop(0)), patient))

    @pytest.mark.parametrize("old", [{"hears": False}, {"hears": ValueError("broken")}])
    def test_one_that_makes_no_sense_may_be_replaced_by_another_such(self, old):
        async def work(slot):
            await slot.load()
            await slot.replace()
            assert slot.model.hears is False

        run(work, slot_of(lambda: Model(**old), lambda: Model(hears=False)))

    def test_what_is_not_loaded_is_loaded(self):
        async def work(slot):
            await slot.replace()
            assert slot.state == "ready"

        run(work, slot_of())


class TestWithoutRoomForTwo:
    """Memory for one model only."""

    def offer(self, load, recipe=None):
        def checked():
            assert not Model.alive, "there is room for one only"
            return load()

        return Offer("a", checked, recipe=recipe, memory=2, free=lambda: 1)

    def test_who_comes_meanwhile_waits(self):
        async def work(slot):
            async with slot.lease() as old:
                change = asyncio.create_task(slot.replace())
                await until(lambda: slot.state == "loading")

                async def use():
                    async with slot.lease() as model:
                        return model

                waiting = [asyncio.create_task(use()) for _ in range(5)]
                await asyncio.sleep(0.02)
                assert not old.closed
            await change
            assert set(await asyncio.gather(*waiting)) == {slot.model}
            assert old.closed

        run(work, Slot(self.offer(Model), canary))

    def test_the_old_weights_come_back_when_new_ones_fail(self):
        def fail():
            raise SetupError("no weights")

        async def work(slot):
            await slot.load()
            with pytest.raises(SetupError, match="no weights"):
                await slot.replace(self.offer(fail, recipe="new"))
            async with slot.lease() as model:
                assert model.hears
            assert slot.offer.recipe == "old"

        run(work, Slot(self.offer(Model, recipe="old"), canary))

    def test_with_the_same_recipe_there_are_no_old_weights(self):
        outcomes = [Model, lambda: Model(hears=False)]

        async def work(slot):
            await slot.load()
            with pytest.raises(SetupError, match="makes nothing of the canary"):
                await slot.replace()
            assert slot.state == "failed"
            assert "makes nothing of the canary" in slot.reason
            with pytest.raises(ModelUnavailable):
                async with slot.lease():
                    pass

        run(work, Slot(self.offer(lambda: outcomes.pop(0)()), canary))

    def test_closing_does_not_wait_for_calls_that_drain(self):
        async def main():
            slot = Slot(self.offer(Model), canary)
            lease = slot.lease()
            await lease.__aenter__()
            change = asyncio.create_task(slot.replace())
            await until(lambda: slot.retiring)
            async with asyncio.timeout(2):
                await slot.close()
            await asyncio.wait({change})
            await lease.__aexit__(None, None, None)

        asyncio.run(main())

    def test_a_device_that_is_gone_leaves_the_old_one(self):
        def free():
            raise SetupError("no GPU")

        async def work(slot):
            await slot.load()
            with pytest.raises(SetupError, match="no GPU"):
                await slot.replace(Offer("a", Model, free=free))
            assert slot.state == "ready"

        run(work, slot_of())


class TestUnloading:
    def test_after_idle_time_and_loaded_on_demand(self):
        async def work(slot):
            async with slot.lease() as first:
                pass
            await until(lambda: slot.state == "idle")
            await until(lambda: first.closed)
            async with slot.lease() as second:
                assert second is not first

        run(work, slot_of(keep=False, idle_s=0.05))

    def test_not_while_it_is_used(self):
        async def work(slot):
            async with slot.lease() as model:
                await asyncio.sleep(0.15)
            assert not model.closed
            async with slot.visit():
                await asyncio.sleep(0.15)
            assert not model.closed
            began = time.monotonic()
            await until(lambda: slot.state == "idle")
            assert time.monotonic() - began > 0.04

        run(work, slot_of(keep=False, idle_s=0.05))

    @pytest.mark.parametrize("settings", [{"keep": True, "idle_s": 0.02}, {"keep": False, "idle_s": 0}])
    def test_not_what_is_kept(self, settings):
        async def work(slot):
            await slot.load()
            await asyncio.sleep(0.1)
            assert slot.state == "ready"
            slot.keep(False, 0.02)
            await until(lambda: slot.state == "idle")

        run(work, slot_of(**settings))

    def test_by_an_operator_only_when_nobody_uses_it(self):
        async def work(slot):
            async with slot.visit() as model:
                with pytest.raises(Conflict):
                    await slot.unload()
            async with slot.lease():
                with pytest.raises(Conflict):
                    await slot.unload()
            await slot.unload()
            assert model.closed
            assert slot.state == "idle"

        run(work, slot_of())

    def test_a_model_that_cannot_be_closed_is_let_go(self):
        class Stuck(Model):
            async def close(self):
                await super().close()
                raise RuntimeError("stuck")

        async def work(slot):
            await slot.load()
            await slot.unload()
            await slot.load()

        run(work, slot_of(Stuck, Model))


def test_finishing_waits_for_the_recordings_and_is_for_good():
    async def main():
        slot = slot_of()
        async with slot.visit() as model:
            end = asyncio.create_task(slot.finish())
            await asyncio.sleep(0.02)
            assert not model.closed
        await end
        assert model.closed
        with pytest.raises(ModelUnavailable):
            async with slot.lease():
                pass

    asyncio.run(main())


class TestOpening:
    """What is finished in the event loop, which may take minutes, can be given up."""

    def slot(self, opened, recipe=None, trouble="35 s so far", **more):
        async def wait(model):
            opened.append(model)
            await asyncio.sleep(60 if recipe != "quick" else 0)

        told = {"trouble": lambda model: trouble if model in opened and recipe != "quick" else None}
        return Offer("a", Model, recipe=recipe, open=wait, **told, **more)

    def test_how_far_it_is_can_be_seen_and_closing_ends_it(self):
        opened = []

        async def work(slot):
            slot.begin()
            await until(lambda: opened)
            assert (slot.state, slot.reason) == ("loading", "35 s so far")

        began = time.monotonic()
        run(work, Slot(self.slot(opened), canary))
        assert time.monotonic() - began < 5

    def test_closing_before_it_begins(self):
        opened = []

        async def work(slot):
            slot.begin()
            await asyncio.sleep(0)

        run(work, Slot(self.slot(opened), canary))
        assert not opened

    def test_unloading_ends_it_and_it_stays_idle(self, monkeypatch):
        monkeypatch.setattr(slots, "FIRST_RETRY", 0.01)
        opened = []

        async def work(slot):
            slot.begin()
            await until(lambda: opened)
            await slot.unload()
            await asyncio.sleep(0.05)
            assert (slot.state, len(opened)) == ("idle", 1)
            assert opened[0].closed

        run(work, Slot(self.slot(opened), canary, keep=True))

    def test_another_recipe_ends_it_and_who_waits_gets_that(self):
        opened = []

        async def work(slot):
            async def use():
                async with slot.lease() as model:
                    return model

            users = [asyncio.create_task(use()) for _ in range(3)]
            await until(lambda: opened)
            with pytest.raises(Conflict):
                await slot.replace()
            await slot.replace(self.slot(opened, "quick"))
            assert set(await asyncio.gather(*users)) == {opened[1]}
            assert len(opened) == 2
            assert opened[0].closed

        run(work, Slot(self.slot(opened), canary))

    @pytest.mark.parametrize("alone", [False, True])
    def test_some_are_never_two(self, alone):
        most = []

        async def work(slot):
            await slot.load()
            await slot.replace()
            assert max(most) == (1 if alone else 2)

        def load():
            model = Model()
            most.append(len(Model.alive))
            return model

        run(work, Slot(Offer("a", load, alone=alone), canary))

    def test_one_that_has_trouble_at_once_never_serves(self):
        async def work(slot):
            await slot.load()
            with pytest.raises(SetupError, match="does not serve: no GPU"):
                await slot.replace(Offer("a", Model, trouble=lambda _: "no GPU."))
            assert slot.state == "ready"

        run(work, Slot(Offer("a", Model), canary))
