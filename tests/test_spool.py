import asyncio
import errno
import os
import tempfile

import numpy as np
import pytest

from tingdao.audio.spool import Spool
from tingdao.errors import BrokenAudio, StorageFull
from tingdao.types import SAMPLE_RATE

RAMP = np.arange(-20_000, 20_000, dtype=np.int16)


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path)
    yield spool
    spool.close()


def fill(spool: Spool, samples: np.ndarray) -> None:
    os.pwrite(spool.fileno(), samples.tobytes(), spool.ready * 2)
    spool.advance(spool.ready + len(samples))


def test_what_was_written_can_be_read_as_floats(spool):
    fill(spool, RAMP)
    read = spool.read(0, len(RAMP))
    assert read.dtype == np.float32
    assert np.array_equal(read * 32_768, RAMP)
    assert np.array_equal(spool.read(100, 200) * 32_768, RAMP[100:200])


def test_full_scale_stays_within_one(spool):
    fill(spool, np.array([-32_768, 32_767], np.int16))
    assert spool.read(0, 2).tolist() == [-1.0, 32_767 / 32_768]


def test_only_what_is_ready_is_read(spool):
    os.pwrite(spool.fileno(), RAMP.tobytes(), 0)
    spool.advance(10)
    assert len(spool.read(5, 10**12)) == 5
    assert len(spool.read(10, 20)) == 0
    assert len(spool.read(8, 3)) == 0
    assert len(spool.read(-5, 3)) == 3


def test_duration_is_what_is_ready(spool):
    fill(spool, np.zeros(SAMPLE_RATE // 2, np.int16))
    assert spool.duration == 0.5


def test_it_has_no_name(spool, tmp_path):
    fill(spool, RAMP)
    assert list(tmp_path.iterdir()) == []


def test_waiting_ends_when_enough_is_ready(spool):
    async def main():
        waiting = asyncio.create_task(spool.wait_for(150))
        more = asyncio.create_task(spool.wait_for(1_000))
        await asyncio.sleep(0)
        spool.advance(100)
        await asyncio.sleep(0)
        assert not waiting.done()
        spool.advance(200)
        assert await waiting == 200
        assert not more.done()
        spool.advance(300)
        spool.finish()
        assert await more == 300
        assert spool.complete
        assert await spool.wait_for(10**12) == 300

    asyncio.run(main())


def test_what_is_there_already_is_not_waited_for(spool):
    spool.advance(100)
    assert asyncio.run(asyncio.wait_for(spool.wait_for(100), 1)) == 100


def test_failure_reaches_everyone_who_waits_and_who_comes_later(spool):
    async def main():
        waiting = [asyncio.create_task(spool.wait_for(count)) for count in (10, 20)]
        await asyncio.sleep(0)
        spool.fail(BrokenAudio("damaged"))
        for task in (*waiting, asyncio.create_task(spool.wait_for(0))):
            with pytest.raises(BrokenAudio, match="damaged"):
                await task

    asyncio.run(main())


def test_closing_wakes_who_waits_and_ends_reading(spool):
    async def main():
        waiting = asyncio.create_task(spool.wait_for(10))
        await asyncio.sleep(0)
        spool.close()
        with pytest.raises(ValueError, match="closed"):
            await waiting

    asyncio.run(main())
    with pytest.raises(ValueError, match="closed"):
        spool.read(0, 1)
    spool.close()


def test_closing_frees_the_descriptor(tmp_path):
    spool = Spool(tmp_path)
    descriptor = spool.fileno()
    os.fstat(descriptor)
    spool.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(tmp_path, monkeypatch, number):
    def full(**_):
        raise OSError(number, "full")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(StorageFull, match="no disk space"):
        Spool(tmp_path)


def test_other_trouble_with_the_folder_is_not_hidden(tmp_path):
    with pytest.raises(FileNotFoundError):
        Spool(tmp_path / "missing")
