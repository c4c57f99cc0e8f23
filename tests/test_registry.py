"""Names, aliases, and loading once."""

import asyncio

import pytest

from conftest import FakeEngine
from tingdao.engines.registry import Offer, Registry
from tingdao.errors import ModelNotFound, ModelUnavailable, SetupError


def registry(*engines, aliases=None):
    return Registry([Offer(engine.card.name, lambda e=engine: e) for engine in engines], aliases or {})


def test_names_aliases_and_default_resolve():
    models = registry(FakeEngine(name="a"), FakeEngine(name="b"), aliases={"whisper-1": "default", "x": "y", "y": "b"})
    assert [models.resolve(name) for name in (None, "", "default", "whisper-1", "a", "x")] == ["a"] * 5 + ["b"]


@pytest.mark.parametrize("name", ["nope", "loop", "A"])
def test_unknown_names_are_refused_with_the_names_there_are(name):
    models = registry(FakeEngine(name="a"), aliases={"loop": "pool", "pool": "loop"})
    with pytest.raises(ModelNotFound, match="Models: a"):
        models.resolve(name)


def test_many_requests_share_one_load():
    loads = []

    def load():
        loads.append(1)
        return FakeEngine(name="a")

    async def main():
        models = Registry([Offer("a", load)], {})
        assert models.state().state == "idle"
        models.begin_loading()
        assert models.state().state == "loading"
        engines = await asyncio.gather(*(models.engine() for _ in range(20)))
        assert models.state().state == "ready"
        assert len({id(engine) for engine in engines}) == 1
        await models.close()
        assert engines[0].closed

    asyncio.run(main())
    assert len(loads) == 1


@pytest.mark.parametrize("error", [SetupError("no weights: run this"), ValueError("strange")])
def test_a_failed_load_is_a_clear_503_and_is_tried_again(error):
    outcomes = [error, FakeEngine(name="a")]

    def load():
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def main():
        models = Registry([Offer("a", load)], {})
        with pytest.raises(ModelUnavailable) as caught:
            await models.engine()
        assert "tingdao check" in caught.value.message
        assert str(error) not in caught.value.message
        assert models.state().state == "failed"
        assert str(error) in models.state().reason
        assert (await models.engine()).card.name == "a"
        await models.close()

    asyncio.run(main())


def test_a_caller_that_leaves_does_not_stop_the_load_for_others():
    async def main():
        models = registry(FakeEngine(name="a"))
        impatient = asyncio.create_task(models.engine())
        await asyncio.sleep(0)
        impatient.cancel()
        assert (await models.engine()).card.name == "a"
        await models.close()

    asyncio.run(main())
