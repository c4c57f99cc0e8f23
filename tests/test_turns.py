"""Who is served next when more wait than are served at once."""

import asyncio

import pytest

from tingdao.turns import Turns


async def serve(width, *lanes, rounds=100):
    """Clips in the order of their turns; lanes: (caller, recording, clips of 1 s)."""
    turns, order = Turns(width), []
    gate = asyncio.Event()

    async def clip(lane, name):
        async with lane.turn(1.0):
            await gate.wait()
            order.append(name)
            await asyncio.sleep(0)

    tasks = []
    for caller, name, count in lanes:
        lane = turns.lane(caller)
        tasks += [asyncio.create_task(clip(lane, name)) for _ in range(count)]
        await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*tasks)
    assert turns.waiting == 0
    return "".join(order)


def test_a_short_recording_goes_before_the_rest_of_a_long_one():
    order = asyncio.run(serve(2, ("a", "L", 12), ("a", "s", 2)))
    # Two turns were given before the short one came; then they alternate, which evens out what both have had.
    assert order.index("s") <= 3
    assert order.rindex("s") <= 5


def test_callers_share_however_many_recordings_each_has():
    many = [("a", "a", 1) for _ in range(20)]
    order = asyncio.run(serve(2, *many, ("b", "b", 5)))
    assert order[2:12].count("b") == 5


def test_a_caller_who_was_idle_has_not_saved_up_turns():
    async def main():
        turns, order = Turns(2), []

        async def clip(lane, name):
            async with lane.turn(1.0):
                order.append(name)
                await asyncio.sleep(0)

        busy, idle = turns.lane("busy"), turns.lane("idle")
        await asyncio.gather(*(clip(busy, "x") for _ in range(50)))
        tasks = [asyncio.create_task(clip(busy, "x")) for _ in range(10)]
        tasks += [asyncio.create_task(clip(idle, "i")) for _ in range(10)]
        await asyncio.gather(*tasks)
        return "".join(order[50:])

    order = asyncio.run(main())
    assert order[:10].count("x") >= 3


def test_everything_fits_when_nobody_waits():
    async def main():
        turns = Turns(5)
        lane = turns.lane("a")
        async with lane.turn(1), lane.turn(1), lane.turn(1), lane.turn(1), lane.turn(1):
            assert turns.waiting == 0
            waiter = asyncio.create_task(anext(aiter_of(lane)))
            await asyncio.sleep(0)
            assert turns.waiting == 1
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
        async with lane.turn(1), lane.turn(1), lane.turn(1), lane.turn(1), lane.turn(1):
            assert turns.waiting == 0

    async def aiter_of(lane):
        async with lane.turn(1):
            yield

    asyncio.run(main())


def test_a_turn_given_to_one_who_leaves_in_that_moment_is_not_lost():
    async def main():
        turns = Turns(2)
        lane = turns.lane("a")

        async def hold(release):
            async with lane.turn(1):
                await release.wait()

        release = asyncio.Event()
        holders = [asyncio.create_task(hold(release)) for _ in range(2)]
        leaver = asyncio.create_task(hold(release))
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(*holders)  # the turn is given to the leaver, who is cancelled before running on
        leaver.cancel()
        await asyncio.gather(leaver, return_exceptions=True)
        async with asyncio.timeout(1), lane.turn(1), lane.turn(1):
            pass

    asyncio.run(main())


def test_a_failure_gives_the_turn_back():
    async def main():
        lane = Turns(2).lane("a")
        for _ in range(5):
            with pytest.raises(ValueError, match="broken"):
                async with lane.turn(1):
                    raise ValueError("broken")
        async with asyncio.timeout(1), lane.turn(1):
            pass

    asyncio.run(main())


def test_equals_are_served_in_the_order_of_their_coming():
    lanes = [("a", name, 1) for name in "abcdefghijklmnop"]
    assert asyncio.run(serve(2, *lanes)) == "abcdefghijklmnop"


def test_a_long_recording_is_not_passed_by_an_endless_row_of_short_ones():
    async def main():
        turns, order = Turns(1), []

        async def clip(lane, name, seconds):
            async with lane.turn(seconds):
                order.append(name)
                await asyncio.sleep(0)

        long = turns.lane("a")
        tasks = [asyncio.create_task(clip(long, "L", 30.0)) for _ in range(3)]
        for _ in range(400):  # always about four that wait, each of a recording of its own
            tasks.append(asyncio.create_task(clip(turns.lane("a"), "s", 10.0)))
            await asyncio.sleep(0)
            while turns.waiting > 4:  # noqa: ASYNC110  what is waited for has no event
                await asyncio.sleep(0)
        while len(order) < 200:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return order

    assert asyncio.run(main())[:100].count("L") == 3


def test_more_turns_are_given_when_there_are_more_and_fewer_when_fewer():
    async def main():
        turns = Turns(1)
        lane = turns.lane("a")
        await lane.take(1)
        others = [asyncio.create_task(lane.take(1)) for _ in range(3)]
        await asyncio.sleep(0)
        assert turns.waiting == 3
        turns.resize(3)
        assert turns.waiting == 1
        turns.resize(1)
        for _ in range(2):
            lane.give_back()
        assert turns.waiting == 1  # still one too many at work
        lane.give_back()
        assert turns.waiting == 0
        await asyncio.gather(*others)

    asyncio.run(main())
