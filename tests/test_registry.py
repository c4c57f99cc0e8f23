"""Names, aliases, routes, and what happens to models at run time."""

import asyncio
import threading

import pytest

from conftest import FakeEngine
from tingdao.engines.base import Ask, Recognition
from tingdao.engines.canary import recording
from tingdao.engines.offer import Offer
from tingdao.engines.registry import AVOIDED_SECONDS, FAILURES, Registry
from tingdao.errors import Conflict, EngineFailed, ModelNotFound, ModelUnavailable, SetupError
from tingdao.settings import ModelsSettings, Route, RoutingSettings

CLIP = recording()


def offer(name, recipe=None, **engine):
    return Offer(name, lambda: FakeEngine(name=name, **engine), recipe=recipe)


def registry(*names, aliases=None, routes=(), **models):
    return Registry(
        [offer(name) for name in names], aliases or {}, ModelsSettings(**models), RoutingSettings(auto=routes)
    )


def run(work):
    """Run a test's coroutine function with a registry, and close that."""

    async def main():
        models = None
        try:
            models = await work()
        finally:
            if models:
                await models.close()

    asyncio.run(main())


class TestNames:
    def test_names_aliases_and_default_resolve(self):
        models = registry("a", "b", aliases={"whisper-1": "default", "x": "y", "y": "b"})
        wanted = (None, "", "default", "auto", "whisper-1", "a", "x")
        assert [models.resolve(name) for name in wanted] == ["a"] * 6 + ["b"]

    @pytest.mark.parametrize("name", ["nope", "loop", "A"])
    def test_unknown_names_are_refused_with_the_names_there_are(self, name):
        models = registry("a", aliases={"loop": "pool", "pool": "loop"})
        with pytest.raises(ModelNotFound, match="Models: a"):
            models.resolve(name)

    def test_only_who_leaves_the_choice_is_routed(self):
        models = registry("a", "b", aliases={"whisper-1": "default", "x": "b"}, routes=(Route(model="b"),))
        assert [models.leaves_choice(name) for name in (None, "auto", "default", "whisper-1")] == [True] * 4
        assert [models.leaves_choice(name) for name in ("a", "b", "x")] == [False] * 3
        assert not registry("a").leaves_choice("auto")
        with pytest.raises(ModelNotFound):
            models.leaves_choice("nope")

    @pytest.mark.parametrize(
        ("settings", "named"), [({"routes": (Route(model="z"),)}, "routing"), ({"preload": ("z",)}, "preload")]
    )
    def test_settings_that_name_no_model_stop_the_start(self, settings, named):
        with pytest.raises(SetupError, match=f"{named}.*'z'.*Models: a"):
            registry("a", **settings)

    def test_what_is_kept(self):
        def kept(**settings):
            models = registry("a", "b", "c", aliases={"short": "c"}, **settings)
            return {state.name for state in models.states() if state.kept}

        assert kept() == {"a"}
        assert kept(routes=(Route(model="b", max_duration_s=1), Route(model="short"))) == {"a", "b", "c"}
        assert kept(preload=("short",)) == {"c"}
        assert kept(preload=()) == set()


class TestRouting:
    ROUTES = (Route(model="a", max_duration_s=30), Route(model="b"))

    def test_by_duration(self):
        models = registry("a", "b", routes=self.ROUTES)
        assert models.horizon == 30
        assert (models.ranked(30, None), models.ranked(30.1, None)) == (["a", "b"], ["b", "a"])

    def test_a_model_that_cannot_be_loaded_is_avoided(self):
        async def main():
            def broken():
                raise SetupError("no weights")

            offers = [Offer("a", broken), offer("b")]
            models = Registry(offers, {}, routes=RoutingSettings(auto=self.ROUTES))
            with pytest.raises(SetupError):
                await models.load("a")
            assert models.ranked(10, None) == ["b", "a"]
            return models

        run(main)

    def test_a_model_that_keeps_failing_is_avoided_for_a_while(self, monkeypatch):
        async def main():
            models = registry("a", "b", routes=self.ROUTES)
            engine = await models.engine("a")
            fake = models._served["a"].slot.model
            fake.fail = EngineFailed("broken")
            for failed in range(FAILURES):
                assert models.ranked(10, None) == ["a", "b"], failed
                with pytest.raises(EngineFailed):
                    await engine.recognise(CLIP, Ask())
            assert models.ranked(10, None) == ["b", "a"]
            models._served["a"].failed -= AVOIDED_SECONDS
            assert models.ranked(10, None) == ["a", "b"]
            fake.fail = None
            await engine.recognise(CLIP, Ask())
            assert models._served["a"].failures == 0
            return models

        run(main)

    def test_a_busy_model_is_passed_over(self):
        async def main():
            models = registry("a", "b", routes=(Route(model="a", max_waiting=0), Route(model="b")))
            engine = await models.engine("a")
            fake = models._served["a"].slot.model
            fake.hold = asyncio.Event()
            calls = [asyncio.create_task(engine.recognise(CLIP, Ask())) for _ in range(2)]
            await asyncio.sleep(0.01)
            assert (models.state("a").waiting, models.ranked(1, None)[0]) == (0, "a")
            calls.append(asyncio.create_task(engine.recognise(CLIP, Ask())))
            await asyncio.sleep(0.01)
            assert (models.state("a").waiting, models.ranked(1, None)[0]) == (1, "b")
            fake.hold.set()
            await asyncio.gather(*calls)
            assert models.state("a").calls == 0
            return models

        run(main)


class TestLease:
    def test_each_call_runs_on_the_version_that_serves_then(self):
        async def main():
            models = registry("a")
            async with models.lease() as engine:
                old = models._served["a"].slot.model
                await engine.recognise(CLIP, Ask())
                await models.reload()
                await engine.recognise(CLIP, Ask())
                new = models._served["a"].slot.model
                assert old is not new
                assert old.closed
                # Both were asked once here; the canary went to each, too.
                assert (len(old.asked), len(new.asked)) == (2, 2)
            return models

        run(main)

    def test_a_stream_holds_its_version_and_lets_go_when_it_is_left(self):
        async def main():
            models = registry("a")
            async with models.lease() as engine:
                partials = engine.recognise_stream(CLIP, Ask())
                assert (await anext(partials)).final.text == "from 0.0"
                assert models.state().calls == 1
                await partials.aclose()
                assert models.state().calls == 0
            return models

        run(main)

    def test_what_is_wrong_with_a_request_does_not_count_as_the_engines_failure(self):
        async def main():
            models = registry("a")
            engine = await models.engine()
            models._served["a"].slot.model.fail = ModelUnavailable("not the engine's fault")
            with pytest.raises(ModelUnavailable):
                await engine.recognise(CLIP, Ask())
            assert models._served["a"].failures == 0
            return models

        run(main)


class TestChanging:
    def test_start_loads_what_is_kept_and_the_rest_on_demand(self):
        async def main():
            models = registry("a", "b")
            models.start()
            await models.engine("a")
            assert [state.state for state in models.states()] == ["ready", "idle"]
            await models.engine("b")
            assert [state.state for state in models.states()] == ["ready", "ready"]
            return models

        run(main)

    def test_one_change_at_a_time(self):
        async def main():
            models = registry("a", "b")
            fake = FakeEngine(name="a")
            fake.hold = asyncio.Event()
            models._served["a"].slot.offer = Offer("a", lambda: fake)
            await models.load("a")
            first = asyncio.create_task(models.reload("a"))
            await asyncio.sleep(0.01)
            for change in (models.reload("a"), models.load("b"), models.unload("b"), models.update([offer("a")], {})):
                with pytest.raises(Conflict):
                    await change
            fake.hold.set()
            assert (await first).state == "ready"
            return models

        run(main)

    def test_a_reload_goes_on_when_who_asked_for_it_leaves(self):
        async def main():
            models = registry("a")
            await models.load()
            old = models._served["a"].slot.model
            begun, go_on = asyncio.Event(), threading.Event()
            loop = asyncio.get_running_loop()

            def load():
                loop.call_soon_threadsafe(begun.set)
                assert go_on.wait(10)
                return FakeEngine(name="a")

            models._served["a"].slot.offer = Offer("a", load)
            impatient = asyncio.create_task(models.reload())
            await begun.wait()
            impatient.cancel()
            await asyncio.wait({impatient})
            assert impatient.cancelled()
            assert models.state().reloading
            go_on.set()
            await asyncio.gather(*models._tasks)
            assert models._served["a"].slot.model is not old
            return models

        run(main)

    def test_load_and_unload(self):
        async def main():
            models = registry("a", "b")
            assert (await models.load("b")).state == "ready"
            async with models.lease("b"):
                with pytest.raises(Conflict, match="at work"):
                    await models.unload("b")
            assert (await models.unload("b")).state == "idle"
            assert (await models.unload("b")).state == "idle"
            with pytest.raises(ModelNotFound):
                await models.load("c")
            return models

        run(main)


class TestUpdate:
    def test_adds_removes_and_replaces(self):
        async def main():
            models = registry("a", "b", "c")
            for name in "abc":
                await models.load(name)
            before = {name: models._served[name].slot.model for name in "abc"}
            problems = await models.update([offer("a"), offer("c", recipe="new"), offer("d")], {"x": "d"})
            assert problems == []
            assert [state.name for state in models.states()] == ["a", "c", "d"]
            assert models._served["a"].slot.model is before["a"]
            assert models._served["c"].slot.model is not before["c"]
            assert models.state("x").state == "idle"
            await asyncio.sleep(0.2)
            assert (before["b"].closed, before["c"].closed, before["a"].closed) == (True, True, False)
            with pytest.raises(ModelNotFound):
                models.resolve("b")
            return models

        run(main)

    def test_a_removed_model_finishes_its_recordings(self):
        async def main():
            models = registry("a", "b")
            async with models.lease("b") as engine:
                fake = models._served["b"].slot.model
                await models.update([offer("a")], {})
                with pytest.raises(ModelNotFound):
                    await models.engine("b")
                await asyncio.sleep(0.05)
                assert isinstance(await engine.recognise(CLIP, Ask()), Recognition)
                assert not fake.closed
            await asyncio.sleep(0.05)
            assert fake.closed
            with pytest.raises(ModelUnavailable):
                await engine.recognise(CLIP, Ask())
            return models

        run(main)

    def test_a_new_default_serves_once_it_is_loaded(self):
        async def main():
            models = registry("a")
            await models.load()
            assert await models.update([offer("b"), offer("a")], {}) == []
            assert (models.default, models.state().state) == ("b", "ready")
            return models

        run(main)

    def test_a_new_default_that_fails_leaves_the_old_one(self):
        async def main():
            def broken():
                raise SetupError("no weights")

            models = registry("a")
            await models.load()
            problems = await models.update([Offer("b", broken)], {})
            assert problems == ["no weights", "a stays the default model, since b is not there."]
            assert (models.default, models.state().state) == ("a", "ready")
            assert (await models.engine()).card.name == "a"
            assert models.state("b").reason == "no weights"
            return models

        run(main)

    def test_a_change_that_fails_leaves_the_old_version(self):
        async def main():
            def broken():
                raise SetupError("no weights")

            models = registry("a")
            await models.load()
            assert await models.update([Offer("a", broken, recipe="new")], {}) == ["no weights"]
            assert (await models.engine()).card.name == "a"
            return models

        run(main)

    def test_contradictions_change_nothing(self):
        async def main():
            models = registry("a")
            with pytest.raises(SetupError, match="preload"):
                await models.update([offer("b")], {}, ModelsSettings(preload=("a",)))
            assert models.resolve(None) == "a"
            return models

        run(main)

    def test_new_routes_and_what_is_kept_count_at_once(self):
        async def main():
            models = registry("a", "b")
            routes = RoutingSettings(auto=(Route(model="b"),))
            assert await models.update([offer("a"), offer("b")], {}, routes=routes) == []
            assert models.ranked(1, None) == ["b"]
            assert models.state("b").kept
            assert models.state("b").state == "ready"
            return models

        run(main)
