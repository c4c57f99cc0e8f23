"""What a newcomer would wait, from what is in work and how fast it goes."""

import pytest

from tingdao.pipeline.load import Load


def FULL():  # noqa: N802  a constant that is asked
    return True


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_speed_is_measured_while_there_is_work_only(clock):
    load = Load(FULL, clock)
    with load.recording() as recording:
        for second in range(1, 31):
            clock.now += 1
            load.progress(recording, 4.0 * second, 400.0)
    clock.now += 1000
    with load.recording():
        assert load.speed == pytest.approx(4.0, rel=0.05)


def test_speed_is_not_believed_before_enough_was_heard(clock):
    load = Load(FULL, clock)
    with load.recording() as recording:
        clock.now += 1
        load.progress(recording, 10.0, 600.0)
        assert load.speed is None
        assert load.wait == 0.0
        assert load.seconds == 590.0


def test_a_long_recording_counts_with_one_clip_for_a_newcomer(clock):
    load = Load(FULL, clock)
    with load.recording() as long, load.recording() as short:
        for second in range(1, 101):
            clock.now += 1
            load.progress(long, 2.0 * second, 36_000.0)
        load.progress(short, 0.0, 10.0)
        assert load.speed == pytest.approx(2.0, rel=0.05)
        assert load.wait == pytest.approx((30 + 10) / 2, rel=0.05)
    assert load.seconds == 0


def test_what_was_measured_long_ago_is_forgotten(clock):
    load = Load(FULL, clock)
    with load.recording() as recording:
        for speed in (10.0, 1.0):
            for _ in range(300):
                clock.now += 1
                load.progress(recording, recording.done + speed, 36_000.0)
        assert load.speed == pytest.approx(1.0, rel=0.1)


def test_an_engine_with_room_tells_nothing_of_its_speed_and_nobody_waits_for_it(clock):
    full = False
    load = Load(lambda: full, clock)
    with load.recording() as recording:
        for second in range(1, 61):  # one clip after another: slow, since the engine could take 16 at once
            clock.now += 1
            load.progress(recording, 2.0 * second, 36_000.0)
        assert load.speed is None
        full = True
        load.progress(recording, recording.done, 36_000.0)
        for _ in range(60):
            clock.now += 1
            load.progress(recording, recording.done + 32.0, 36_000.0)
        assert load.speed == pytest.approx(32.0, rel=0.01)
        assert load.wait == pytest.approx(30 / 32, rel=0.01)
        assert load.time_for(640) == pytest.approx(20, rel=0.01)
        full = False
        assert load.wait == 0
