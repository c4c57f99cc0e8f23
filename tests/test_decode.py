"""Whole recordings through the real decoder: fork server, child, spool."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest

import media
from tingdao.audio.decode import Decoder
from tingdao.audio.job import Limits
from tingdao.audio.render import Output
from tingdao.caller import Caller, caller
from tingdao.errors import BrokenAudio, EmptyAudio, NotAudio, StorageFull, TingdaoError, TooLong, Unavailable
from tingdao.settings import AudioSettings
from tingdao.types import SAMPLE_RATE

ALL = 10**12
LONGEST = 4_000
"""Seconds that the tests' decoder accepts: more than the longest recording here, and few enough to hold in memory."""
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def run():
    """Runs coroutines, all in one event loop."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def decoder(run, tmp_path_factory):
    settings = AudioSettings(reserve_mib=0, max_duration_s=LONGEST)
    decoder = Decoder(settings, tmp_path_factory.mktemp("spools"))
    decoder.start()
    yield decoder
    run(decoder.close())


@pytest.fixture(scope="module")
def decode(run, decoder):
    """The samples of a whole file."""
    return lambda data: run(whole(decoder, data))


def stored(data: bytes, size: int | None = None):
    """An open file without a name, with this content, and zeros up to a size."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  its users close it
    file.write(data)
    file.truncate(size)
    file.flush()
    return file


async def whole(decoder: Decoder, data: bytes, size: int | None = None) -> np.ndarray:
    with stored(data, size) as file:
        async with decoder.open(file) as spool:
            samples = spool.read(0, await spool.wait_for(ALL))
            assert spool.complete
            assert spool.duration == len(samples) / SAMPLE_RATE
            return samples


def with_settings(tmp_path: Path, data: bytes, *, size: int | None = None, **settings) -> np.ndarray:
    async def main() -> np.ndarray:
        decoder = Decoder(AudioSettings(**{"reserve_mib": 0} | settings), tmp_path)
        try:
            return await whole(decoder, data, size)
        finally:
            await decoder.close()

    return asyncio.run(main())


def children(decoder: Decoder) -> list[int]:
    """Process ids of the decoder's children that are there, the dead and unburied included."""
    server = decoder._server._process.pid
    return [int(pid) for pid in Path(f"/proc/{server}/task/{server}/children").read_text().split()]


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(condition, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  other processes set no events
            await asyncio.sleep(0.01)


def alike(found: np.ndarray, shift: float) -> tuple[float, int]:
    """Best correlation with the original, and by how many samples the found one is late; searched within `shift` s."""
    original = media.speech()
    size = max(len(found), len(original)) + SAMPLE_RATE
    spectrum = np.fft.rfft(found, size) * np.conj(np.fft.rfft(original, size))
    correlation = np.fft.irfft(spectrum, size) / np.linalg.norm(found) / np.linalg.norm(original)
    reach = round(shift * SAMPLE_RATE) + 1
    near = np.concatenate([correlation[-reach:], correlation[: reach + 1]])
    best = int(np.argmax(near))
    return float(near[best]), best - reach


# Formats.

UNEXACT = {  # (seconds too long, seconds late): what a format cannot say of its encoder's padding, and no more
    "aac": (0.03, 0.025),  # one frame before
    "m4a fragments": (0.03, 0.025),
    "mp3 without tag": (0.1, 0.075),
    "amr": (0.02, 0.006),  # one frame of 20 ms, and its filter
}
LOUDNESS = {"wav a-law": 0.99, "wav mu-law": 0.99, "amr": 0.85}
"""Least correlation with the original where it is less than 0.995."""


@pytest.mark.parametrize("name", [*media.FORMATS, *media.STORED])
def test_every_format_gives_the_recording_at_its_true_time(decode, name):
    found = decode(media.recording(name))
    longer, late = UNEXACT.get(name, (0.0, 0.0))
    seconds = len(found) / SAMPLE_RATE
    assert -0.01 < seconds - media.SECONDS <= longer + 0.01
    correlation, lag = alike(found, 0.2)
    assert correlation > LOUDNESS.get(name, 0.995 if late == 0 else 0.98)
    assert -16 <= lag <= late * SAMPLE_RATE + 16  # 1 ms


def test_lossless_formats_are_exact(decode):
    original = media.speech()
    for name in ("wav", "flac", "w64", "au", "caf"):
        assert np.array_equal(decode(media.recording(name)), original), name


def test_the_name_of_a_file_does_not_matter(run, decoder, tmp_path):
    for name in ("talk.mp3", "talk", "talk.exe"):
        path = tmp_path / name
        path.write_bytes(media.recording("flac"))

        async def main(path=path):
            with path.open("rb") as file:
                async with decoder.open(file) as spool:
                    return await spool.wait_for(ALL)

        assert run(main()) == media.SECONDS * SAMPLE_RATE


def test_a_source_is_read_from_its_beginning_and_two_can_share_it(run, decoder):
    async def main():
        with stored(media.recording("mp3")) as file:
            file.seek(1000)
            async with decoder.open(file) as first, decoder.open(file) as second:
                return await asyncio.gather(first.wait_for(ALL), second.wait_for(ALL))

    assert run(main()) == [media.SECONDS * SAMPLE_RATE] * 2


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("matroska", "libopus")])
def test_the_sound_of_a_film_is_taken_and_keeps_its_time(decode, container, codec):
    assert len(decode(media.film(container, codec))) / SAMPLE_RATE == pytest.approx(11.0, abs=0.03)
    late = decode(media.film(container, codec, delay=2.0))
    assert len(late) / SAMPLE_RATE == pytest.approx(13.0, abs=0.03)
    assert not late[: 2 * SAMPLE_RATE - 1600].any()
    assert alike(late, 2.1)[1] == pytest.approx(2 * SAMPLE_RATE, abs=0.025 * SAMPLE_RATE)


# Channels and rates.


def channels(*sides: np.ndarray) -> bytes:
    return np.stack(sides, axis=1).astype("<i2").tobytes()


def test_stereo_becomes_the_mean_of_both_sides(decode):
    speech = (media.speech() * 32_768).astype(np.int16)
    nothing = np.zeros_like(speech)
    left = decode(media.wav(channels(speech, nothing), channels=2))
    assert np.abs(left - media.speech() / 2).max() < 1 / 20_000
    both = decode(media.wav(channels(speech, speech), channels=2))
    assert np.abs(both - media.speech()).max() < 1 / 20_000


def test_full_scale_stereo_is_not_clipped(decode):
    tone = np.round(32_767 * np.sin(np.arange(SAMPLE_RATE) / 5))
    both = decode(media.wav(channels(tone, tone), channels=2))
    assert np.abs(both * 32_768 - tone).max() < 2


@pytest.mark.parametrize("count", [3, 5, 8, 16, 64])
def test_unknown_layouts_become_the_mean_of_all_channels(decode, count):
    speech = (media.speech()[:SAMPLE_RATE] * 32_768).astype(np.int16)
    one = [speech * 1, *[np.zeros_like(speech)] * (count - 1)]
    found = decode(media.wav(channels(*one), channels=count))
    assert np.abs(found - media.speech()[:SAMPLE_RATE] / count).max() < 1 / 15_000


def test_eight_channels_at_192_khz(decode):
    tone = np.round(8_000 * np.sin(np.arange(2 * 192_000) * 2 * np.pi * 440 / 192_000))
    found = decode(media.wav(channels(*[tone] * 8), rate=192_000, channels=8))
    assert len(found) == 2 * SAMPLE_RATE
    expected = 8_000 / 32_768 * np.sin(np.arange(2 * SAMPLE_RATE) * 2 * np.pi * 440 / SAMPLE_RATE)
    assert np.abs(found - expected)[800:-800].max() < 0.002


@pytest.mark.parametrize(("rate", "name"), [(5, "5 Hz"), (1_999, "1999 Hz"), (400_000, "400000 Hz"), (10**7, "Hz")])
def test_sample_rates_that_nobody_records_are_refused(decode, rate, name):
    with pytest.raises(NotAudio, match=name):
        decode(media.wav(media.pcm(1), rate=rate))


@pytest.mark.parametrize(("rate", "seconds"), [(2_000, 8.0), (8_000, 2.0), (384_000, 1 / 24)])
def test_sample_rates_within_the_limits_keep_their_time(decode, rate, seconds):
    assert len(decode(media.wav(media.pcm(1), rate=rate))) / SAMPLE_RATE == pytest.approx(seconds, abs=1e-4)


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ({"rate": 0}, BrokenAudio),
        ({"rate": 2**31}, BrokenAudio),
        ({"channels": 0}, BrokenAudio),
        ({"channels": 65}, NotAudio),
        ({"channels": 65_535}, BrokenAudio),
        ({"bits": 0}, NotAudio),
        ({"bits": 33}, NotAudio),
        ({"tag": 0x1234}, NotAudio),
        ({"tag": 2}, BrokenAudio),
    ],
)
def test_headers_without_sense_are_refused(decode, header, error):
    with pytest.raises(error):
        decode(media.wav(media.pcm(1), **header))


def test_what_changes_on_the_way_is_followed(decode):
    """Two MP3 files joined: mono at 16 kHz, then stereo at 44.1 kHz."""
    found = decode(media.recording("mp3 without tag") + media.recording("mp3"))
    assert len(found) / SAMPLE_RATE == pytest.approx(22.0, abs=0.2)  # the paddings of two encoders
    assert alike(found[-11 * SAMPLE_RATE :], 0.1)[0] > 0.98


# What is no recording.

NOT_AUDIO = {
    "text": (b"Dear sir or madam,\nplease find attached", "text"),
    "Chinese text": ("你好，世界。" * 500).encode(),
    "web page": (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
    "json": b'{"error": "not found"}',
    "m3u8": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "playlist"),
    "m3u8 with a byte order mark": ("\ufeff#EXTM3U\n/etc/passwd\n".encode(), "playlist"),
    "m3u8 disguised": b"#EXTM3U\n\x00\xff\xfe\n#EXTINF:1,\nfile:///etc/passwd\n",
    "ffconcat": (b"ffconcat version 1.0\nfile /etc/passwd\n", "playlist"),
    "ffconcat disguised": b"ffconcat version 1.0\nfile /etc/passwd\n\x00\xff",
    "pls": (b"[playlist]\nFile1=http://127.0.0.1/\n", "playlist"),
    "xspf": (b"<?xml version='1.0'?><playlist></playlist>", "XML"),
    "sdp": (b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n", "stream description"),
    "zip": (b"PK\x03\x04\x14\x00\x00\x00" + bytes(200), "zip"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "PDF"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "picture"),
    "jpeg": (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(100), "picture"),
    "avi": (b"RIFF\x00\x10\x00\x00AVI LIST" + bytes(100), "AVI"),
    "midi": (b"MThd\x00\x00\x00\x06" + bytes(100), "MIDI"),
    "program": (b"\x7fELF\x02\x01\x01" + bytes(1000), "program"),
    "zeros": bytes(100_000),
    "noise": np.random.default_rng(1).bytes(100_000),
    "one byte": b"\xff",
    "only a tag": b"ID3\x04\x00\x00\x00\x00\x10\x00" + bytes(3_000),
}


@pytest.mark.parametrize("name", NOT_AUDIO)
def test_what_is_no_recording_is_named(decode, name):
    entry = NOT_AUDIO[name]
    data, word = entry if isinstance(entry, tuple) else (entry, "Send WAV, MP3")
    with pytest.raises(NotAudio, match=word):
        decode(data)


def test_a_film_without_sound_is_named(decode):
    with pytest.raises(NotAudio, match="pictures but no sound"):
        decode(media.film("mp4", None))


def test_codecs_that_are_not_listed_are_refused_by_name(decode):
    with pytest.raises(NotAudio, match=r"not supported \(wavpack\)"):
        decode(media.recording("wavpack"))


def test_an_empty_file_is_named(decode):
    with pytest.raises(EmptyAudio, match="0 bytes"):
        decode(b"")


@pytest.mark.parametrize("data", [media.wav(b""), media.wav(b"", tail=b"LIST\x04\x00\x00\x00INFO")])
def test_a_recording_without_samples_is_named(decode, data):
    with pytest.raises(EmptyAudio, match="not a single sample"):
        decode(data)


# Lengths: what the header says, and what is there.


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFD8, 32_000])
def test_wav_headers_that_do_not_know_their_length_hide_nothing(decode, size):
    assert np.array_equal(decode(media.wav(media.pcm(), size=size)), media.speech())


def test_chunks_behind_the_samples_are_no_samples(decode):
    tail = b"LIST" + struct.pack("<I", 20_004) + b"INFO" + b"\x40" * 20_000
    assert np.array_equal(decode(media.wav(media.pcm(), tail=tail)), media.speech())


def test_tags_may_be_in_any_encoding(decode):
    title = "会议录音".encode("gbk")
    info = b"INFOINAM" + struct.pack("<I", len(title)) + title
    tagged = media.wav(media.pcm(), tail=b"LIST" + struct.pack("<I", len(info)) + info)
    assert np.array_equal(decode(tagged), media.speech())


CUT = [
    "wav",
    "wav 44.1 kHz stereo",
    "w64",
    "aiff",
    "au",
    "caf",
    "mp3",
    "mp3 variable",
    "m4a index first",
    "m4a fragments",
    "webm",
    "flac",
]


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("share", [0.5, 0.93])
def test_a_missing_end_is_noticed_where_the_length_is_declared(decode, name, share):
    data = media.recording(name)
    with pytest.raises(BrokenAudio, match=r"should last 11\.\d s, but only (5|10)\.\d s") as caught:
        decode(data[: int(len(data) * share)])
    assert "cut short" in str(caught.value)


@pytest.mark.parametrize("name", ["m4a", "m4a lossless"])
def test_an_mp4_without_its_index_is_broken(decode, name):
    data = media.recording(name)
    with pytest.raises(BrokenAudio, match="begins like MP4"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("name", ["mp3 without tag", "aac", "amr", "ogg opus", "ogg vorbis", "webm live"])
def test_formats_that_declare_nothing_give_what_is_there(decode, name):
    data = media.recording(name)
    found = decode(data[: len(data) // 2])
    assert 4.5 < len(found) / SAMPLE_RATE < 6.5
    assert alike(found, 0.2)[0] > 0.6  # it is half of the recording


# Damage.

DAMAGED = ["mp3", "mp3 without tag", "m4a", "aac", "ogg opus", "ogg vorbis", "webm", "webm live", "flac"]


@pytest.mark.parametrize("name", DAMAGED)
def test_a_little_damage_is_passed_over_and_time_stays_true(decode, name):
    found = decode(media.noise_in(media.recording(name), 0.02))
    untrue = 0.4 if name in ("aac", "mp3 without tag") else 0.11  # without timestamps, a guess has to do
    assert len(found) / SAMPLE_RATE == pytest.approx(media.SECONDS, abs=untrue)
    before, after = found.copy(), found.copy()
    before[4 * SAMPLE_RATE :] = 0
    after[: 7 * SAMPLE_RATE] = 0
    for part, late in ((before, 0.08), (after, untrue)):
        correlation, lag = alike(part, 0.5)
        assert correlation > 0.4  # it is a third of the recording
        assert abs(lag) <= late * SAMPLE_RATE


@pytest.mark.parametrize("name", DAMAGED)
def test_much_damage_is_an_error(decode, name):
    with pytest.raises(BrokenAudio, match="damaged"):
        decode(media.noise_in(media.recording(name), 0.3))


# Time.


@pytest.mark.parametrize(("name", "step"), [("webm", 0.001), ("webm live", 0.001), ("m4a", 0.025)])
def test_pauses_of_the_recorder_are_silence(decode, name, step):
    found = decode(media.pausing(name, at=5.0, pause=3.0))
    assert len(found) / SAMPLE_RATE == pytest.approx(14.0, abs=0.03)
    quiet = np.flatnonzero(np.abs(found[4 * SAMPLE_RATE : 9 * SAMPLE_RATE]) > 0) / SAMPLE_RATE + 4
    assert quiet[quiet < 6.5].max() == pytest.approx(5.0, abs=0.05)
    assert quiet[quiet > 6.5].min() == pytest.approx(8.0, abs=0.05)
    tail = found[round(8.2 * SAMPLE_RATE) : 13 * SAMPLE_RATE]
    original = media.speech()[round(5.2 * SAMPLE_RATE) : 10 * SAMPLE_RATE]
    shifts = range(-600, 601)
    best = max(shifts, key=lambda shift: float(np.dot(tail[600:-600], original[600 + shift : len(tail) - 600 + shift])))
    assert abs(best) / SAMPLE_RATE <= step + 0.001


def test_jitter_of_timestamps_changes_nothing(decode):
    assert len(decode(media.pausing("webm", at=5.0, pause=0.06))) == media.SECONDS * SAMPLE_RATE


def test_timestamps_cannot_make_a_bomb(decode):
    with pytest.raises(TooLong):
        decode(media.pausing("webm", at=5.0, pause=360_000.0))


def test_in_ogg_a_gap_is_damage(decode):
    with pytest.raises(BrokenAudio, match="21% of this recording"):
        decode(media.pausing("ogg opus", at=5.0, pause=3.0))


# Limits.


def test_too_long_is_what_has_too_many_samples(tmp_path):
    assert len(with_settings(tmp_path, media.recording("mp3"), max_duration_s=11)) == 11 * SAMPLE_RATE
    with pytest.raises(TooLong, match=r"longer than 10\.9 s"):
        with_settings(tmp_path, media.recording("mp3"), max_duration_s=10.9)


def test_an_hour_of_nothing_streams_in_little_memory(tmp_path):
    """Half a megabyte becomes more than the memory that the decoder has."""

    async def main():
        decoder = Decoder(AudioSettings(reserve_mib=0, decode_memory_mib=64), tmp_path)
        try:
            with stored(media.silence(hours=1)) as file:
                async with decoder.open(file) as spool:
                    return await spool.wait_for(ALL)
        finally:
            await decoder.close()

    assert len(media.silence(hours=1)) < 700_000
    assert asyncio.run(main()) / SAMPLE_RATE == pytest.approx(3600, abs=20)


def test_a_file_that_needs_too_much_memory_is_broken(tmp_path):
    """An M4A whose first packet has 256 MiB."""
    data = bytearray(media.recording("m4a"))
    first = data.index(b"stsz") + 16
    data[first : first + 4] = (256 << 20).to_bytes(4, "big")
    with pytest.raises(BrokenAudio, match="more memory"):
        with_settings(tmp_path, bytes(data), size=300 << 20, decode_memory_mib=64)


def test_the_reserve_of_the_disk_is_kept(tmp_path):
    with pytest.raises(StorageFull, match="no disk space"):
        with_settings(tmp_path, media.recording("wav"), reserve_mib=2**40)


def test_a_disk_that_fills_up_is_named():
    with Path("/dev/full").open("wb") as full:
        output = Output(full.fileno(), Limits(samples=1000, memory=0, cpu=0, reserve=0), lambda _: None)
        with pytest.raises(StorageFull, match="no disk space"):
            output.write(memoryview(bytes(100)))


@linux
def test_a_decoder_that_stands_still_is_ended(tmp_path):
    async def main():
        decoder = Decoder(AudioSettings(reserve_mib=0, decode_stall_s=0.5), tmp_path)
        try:
            with stored(media.silence(hours=1)) as file:
                async with decoder.open(file) as spool:
                    await spool.wait_for(1)
                    (child,) = children(decoder)
                    os.kill(child, signal.SIGSTOP)
                    with pytest.raises(BrokenAudio, match=r"no more sound .* for 0\.5 s"):
                        await asyncio.wait_for(spool.wait_for(ALL), 5)
                    await until(lambda: not children(decoder))
        finally:
            await decoder.close()

    asyncio.run(main())


def test_decoding_has_a_deadline(tmp_path):
    with pytest.raises(BrokenAudio, match=r"takes more than 0\.2 s"):
        with_settings(tmp_path, media.silence(hours=1), decode_timeout_s=0.2)


# Processes.


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGXCPU])
def test_the_death_of_a_child_is_an_error_of_its_recording_alone(run, decoder, number):
    async def main():
        with stored(media.silence(hours=1)) as file:
            async with decoder.open(file) as doomed:
                await doomed.wait_for(1)
                (child,) = children(decoder)
                os.kill(child, number)
                with pytest.raises(BrokenAudio, match="makes the decoder fail"):
                    await doomed.wait_for(ALL)
                assert len(await whole(decoder, media.recording("mp3"))) == media.SECONDS * SAMPLE_RATE

    run(main())


@linux
def test_children_end_when_they_are_no_longer_wanted(run, decoder):
    """After success, after an error of the user of the spool, and when the task is cancelled."""

    async def use(ended: asyncio.Event, fail: type[Exception] | None) -> None:
        with stored(media.silence(hours=1)) as file:
            async with decoder.open(file) as spool:
                await spool.wait_for(1)
                ended.set()
                if fail:
                    raise fail
                await spool.wait_for(ALL)

    async def main():
        await whole(decoder, media.recording("mp3"))
        await until(lambda: not children(decoder))
        open_before = descriptors()
        with pytest.raises(KeyError):
            await use(asyncio.Event(), KeyError)
        await until(lambda: not children(decoder))
        started = asyncio.Event()
        task = asyncio.create_task(use(started, None))
        await started.wait()
        assert len(children(decoder)) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not children(decoder))
        assert descriptors() == open_before

    run(main())


@linux
def test_a_child_is_gone_once_all_is_decoded(run, decoder):
    """While the spool is still in use."""

    async def main():
        with stored(media.recording("mp3")) as file:
            async with decoder.open(file) as spool:
                await spool.wait_for(ALL)
                await until(lambda: not children(decoder))
                assert len(spool.read(0, ALL)) == media.SECONDS * SAMPLE_RATE

    run(main())


@linux
def test_so_many_are_decoded_at_once_and_no_more(tmp_path):
    async def main():
        decoder = Decoder(AudioSettings(reserve_mib=0, decoders=2), tmp_path)
        most = 0

        async def one():
            nonlocal most
            with stored(media.recording("flac")) as file:
                async with decoder.open(file) as spool:
                    most = max(most, len(children(decoder)))
                    ready = await spool.wait_for(ALL)
                    await asyncio.sleep(0.3)  # decoded, but in use: the next one need not wait for that
                    return ready

        try:
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert await asyncio.gather(*(one() for _ in range(12))) == [media.SECONDS * SAMPLE_RATE] * 12
            assert loop.time() - began < 12 / 2 * 0.3
            assert most <= 3  # the third is dead and about to be buried
        finally:
            await decoder.close()

    asyncio.run(main())


@linux
def test_waiting_for_a_turn_can_be_cancelled(tmp_path):
    async def main():
        decoder = Decoder(AudioSettings(reserve_mib=0, decoders=1), tmp_path)
        try:
            with stored(media.silence(hours=1)) as file:
                async with decoder.open(file):
                    waiting = asyncio.create_task(whole(decoder, media.recording("flac")))
                    await asyncio.sleep(0.05)
                    waiting.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await waiting
            assert len(await whole(decoder, media.recording("flac"))) == media.SECONDS * SAMPLE_RATE
        finally:
            await decoder.close()

    asyncio.run(main())


@linux
def test_a_dead_fork_server_costs_what_was_at_work_and_is_replaced(tmp_path):
    async def main():
        decoder = Decoder(AudioSettings(reserve_mib=0), tmp_path)
        decoder.start()
        try:
            with stored(media.silence(hours=1)) as file:
                async with decoder.open(file) as spool:
                    await spool.wait_for(1)
                    (child,) = children(decoder)
                    os.kill(decoder._server._process.pid, signal.SIGKILL)
                    with pytest.raises((Unavailable, BrokenAudio)):
                        await asyncio.wait_for(spool.wait_for(ALL), 5)
                    await until(lambda: not Path(f"/proc/{child}").exists())
            assert len(await whole(decoder, media.recording("flac"))) == media.SECONDS * SAMPLE_RATE
        finally:
            await decoder.close()

    asyncio.run(main())


@linux
def test_without_descriptors_it_says_so_and_leaves_nothing(run, decoder):
    async def main():
        with stored(b"x") as file:
            before = descriptors()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                with pytest.raises(Unavailable, match="Try again"):
                    async with decoder.open(file):
                        pass
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert descriptors() == before
        assert len(await whole(decoder, media.recording("flac"))) == media.SECONDS * SAMPLE_RATE

    run(main())


@linux
def test_nothing_is_left_when_the_service_is_killed(tmp_path):
    program = f"""
import asyncio, sys
from pathlib import Path
from tingdao.audio.decode import Decoder
from tingdao.settings import AudioSettings

async def main():
    decoder = Decoder(AudioSettings(reserve_mib=0), Path({str(tmp_path)!r}))
    with open(sys.argv[1], "rb") as file:
        async with decoder.open(file) as spool:
            await spool.wait_for(1)
            server = decoder._server._process.pid
            print(server, Path(f"/proc/{{server}}/task/{{server}}/children").read_text(), flush=True)
            await asyncio.sleep(60)

asyncio.run(main())
"""
    source = tmp_path / "bomb.flac"
    source.write_bytes(media.silence(hours=1))
    with subprocess.Popen([sys.executable, "-c", program, source], stdout=subprocess.PIPE, text=True) as service:
        pids = service.stdout.readline().split()
        assert len(pids) == 2
        service.kill()
    asyncio.run(until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids)))
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.flac"]


@linux
def test_a_decoder_that_never_starts_is_not_the_fault_of_the_recording(tmp_path, monkeypatch):
    async def main():
        decoder = Decoder(AudioSettings(reserve_mib=0), tmp_path)
        try:
            await whole(decoder, media.recording("wav"))
            monkeypatch.setattr("tingdao.audio.decode.STARTING", 0.3)
            os.kill(decoder._server._process.pid, signal.SIGSTOP)
            with pytest.raises(Unavailable, match="could not start"):
                await asyncio.wait_for(whole(decoder, media.recording("wav")), 5)
        finally:
            os.kill(decoder._server._process.pid, signal.SIGCONT)
            await decoder.close()

    asyncio.run(main())


@linux
def test_signals_for_the_service_do_not_reach_the_decoder(run, decoder):
    async def main():
        with stored(media.silence(hours=0.2)) as file:
            async with decoder.open(file) as spool:
                await spool.wait_for(1)
                (child,) = children(decoder)
                for pid in (decoder._server._process.pid, child):
                    os.kill(pid, signal.SIGTERM)
                    os.kill(pid, signal.SIGINT)
                await spool.wait_for(ALL)
                assert spool.complete

    run(main())


CONFINED = """
import os, resource, socket, sys, tempfile
from tingdao.audio import confined
from tingdao.audio.job import Limits

keep = [os.dup(0) for _ in range(3)]
other = os.dup(0)
start = confined._renounce()
confined._confine(Limits(samples=1000, memory=64 << 20, cpu=5, reserve=0), start, keep, os.getppid())
for attempt in (lambda: open("/etc/hostname"), socket.socket, os.pipe):
    try:
        attempt()
    except OSError as error:
        assert error.errno == 24, error
    else:
        sys.exit("a descriptor could be opened")
try:
    os.fstat(other)
except OSError:
    pass
else:
    sys.exit("a descriptor was kept")
for descriptor in keep:
    os.fstat(descriptor)
try:
    bytes(100 << 20)
except MemoryError:
    pass
else:
    sys.exit("memory is not limited")
bytes(16 << 20)
assert resource.getrlimit(resource.RLIMIT_CPU) == (5, 5)
assert resource.getrlimit(resource.RLIMIT_FSIZE) == (2000, 2000)
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
print("confined")
"""


@linux
def test_a_child_can_open_nothing_and_has_little_memory():
    run = subprocess.run([sys.executable, "-c", CONFINED], capture_output=True, text=True, check=False)
    assert run.stdout == "confined\n", run.stderr


@linux
def test_keys_in_the_environment_stay_with_the_service(tmp_path, monkeypatch):
    monkeypatch.setenv("TINGDAO_SERVER_KEY", "canary")

    async def main():
        decoder = Decoder(AudioSettings(reserve_mib=0), tmp_path)
        decoder.start()
        try:
            await whole(decoder, media.recording("wav"))  # it is up by now
            return environment(decoder._server._process.pid)
        finally:
            await decoder.close()

    found = asyncio.run(main())
    assert b"PATH=" in found
    assert b"canary" not in found


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


# Any bytes at all.

FUZZED = ["wav", "mp3", "m4a", "ogg opus", "ogg vorbis", "webm", "flac", "aac"]


async def survive(decoder: Decoder, data: bytes) -> TingdaoError | None:
    """Decode within five seconds; return what was said about it."""
    try:
        async with asyncio.timeout(5):
            found = await whole(decoder, data)
    except (NotAudio, EmptyAudio, BrokenAudio, TooLong) as error:
        return error
    assert 0 < len(found) <= LONGEST * SAMPLE_RATE
    return None


async def fuzz(decoder: Decoder, name: str, count: int, seed: int) -> None:
    await survive(decoder, media.recording(name))
    await until(lambda: not children(decoder))
    before = descriptors()
    limit = asyncio.Semaphore(4)

    async def one(data: bytes) -> TingdaoError | None:
        async with limit:
            return await survive(decoder, data)

    said = await asyncio.gather(*(one(data) for data in media.mutations(media.recording(name), count, seed)))
    assert any(said)
    assert not all(said)
    assert all(str(error) for error in said if error)
    await until(lambda: not children(decoder))
    assert descriptors() == before


@linux
@pytest.mark.parametrize("name", FUZZED)
def test_damaged_files_end_in_sound_or_in_words(run, decoder, name):
    run(fuzz(decoder, name, count=25, seed=7))


@linux
@pytest.mark.e2e
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name", [*FUZZED, "amr", "m4a fragments", "webm live", "aiff", "caf", "w64", "au", "wav a-law"]
)
def test_many_more_damaged_files(run, decoder, name):
    run(fuzz(decoder, name, count=400, seed=11))


@linux
def test_long_recordings_leave_their_places_to_short_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("tingdao.audio.decode.LONG", 0.2)

    async def main():
        decoder = Decoder(AudioSettings(reserve_mib=0, decoders=1, decode_stall_s=60), tmp_path)
        try:
            with stored(media.silence(hours=1)) as file:
                async with AsyncExitStack() as opened:
                    for count in (1, 2):
                        spool = await opened.enter_async_context(decoder.open(file))
                        await spool.wait_for(1)
                        assert len(children(decoder)) == count, "the recording is too short for this machine"
                        for child in children(decoder):
                            os.kill(child, signal.SIGSTOP)  # as long as recordings get
                    waiting = asyncio.create_task(whole(decoder, media.recording("flac")))
                    await asyncio.sleep(0.5)
                    assert not waiting.done()  # two work: one with a place, and one beside
                    for child in children(decoder):
                        os.kill(child, signal.SIGCONT)
                    assert len(await waiting) == media.SECONDS * SAMPLE_RATE
        finally:
            await decoder.close()

    asyncio.run(main())


@linux
def test_a_caller_with_many_recordings_does_not_keep_out_one_with_one(tmp_path):
    async def main():
        decoder = Decoder(AudioSettings(reserve_mib=0, decoders=1), tmp_path)
        order = []

        async def one(who: str) -> None:
            account = Caller()
            account.address = who
            caller.set(account)
            await whole(decoder, media.recording("flac"))
            order.append(who)

        try:
            many = [asyncio.create_task(one("many")) for _ in range(12)]
            await asyncio.sleep(0)
            await asyncio.gather(*many, asyncio.create_task(one("single")))
        finally:
            await decoder.close()
        return order

    assert asyncio.run(main()).index("single") <= 3
