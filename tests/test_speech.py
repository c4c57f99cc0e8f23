import asyncio
import threading
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest

from tingdao.audio.speech import FRAME, MAX_PAUSE, MIN_PAUSE, PADDING, STEP, Cutter, SpeechDetector, clips
from tingdao.errors import BrokenAudio
from tingdao.settings import AudioSettings

RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("*.flac"))
RATE = 16_000


def load(file):
    with av.open(str(file)) as container:
        resampler = av.AudioResampler("flt", "mono", RATE)
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in [*frames, *resampler.resample(None)]])


@pytest.fixture(scope="module")
def detector():
    return SpeechDetector(AudioSettings())


@pytest.fixture(scope="module")
def speech():
    return {file.stem: load(file) for file in RECORDINGS}


@pytest.fixture(scope="module")
def reading(speech):
    """Sentences with silences of 0.3 s to 3 s between them: samples, and each sentence's (start, end) in samples."""
    pauses = np.random.default_rng(7).permutation(np.linspace(0.3, 3, len(speech)))
    samples, places = [np.zeros(RATE, np.float32)], []
    for sentence, pause in zip(speech.values(), pauses, strict=True):
        energy = np.cumsum(sentence**2)
        sentence = sentence[slice(*np.searchsorted(energy, energy[-1] * np.array([0.002, 0.998])))]
        start = sum(map(len, samples))
        places.append((start, start + len(sentence)))
        samples += [sentence, np.zeros(int(pause * RATE), np.float32)]
    return np.concatenate(samples), places


class Recording:
    """Samples that become ready piece by piece, as fast as they are waited for."""

    def __init__(self, samples, piece=None):
        self.samples, self.piece = samples, piece or len(samples)
        self.ready = 0
        self.readers = set()

    async def wait_for(self, samples):
        while self.ready < min(samples, len(self.samples)):
            await asyncio.sleep(0)
            self.ready = min(self.ready + self.piece, len(self.samples))
        return self.ready

    def read(self, start, end):
        assert 0 <= start <= end <= self.ready
        self.readers.add(threading.get_ident())
        return self.samples[start:end]


def find(samples, detector, limit_s=30.0):
    async def main():
        return [clip async for clip in clips(Recording(np.asarray(samples, np.float32)), detector, limit_s)]

    return asyncio.run(main())


def assert_sound(found, samples, limit):
    """What holds for the clips of any recording."""
    end = 0
    for clip in found:
        assert end <= clip.start < clip.end <= samples
        assert clip.end - clip.start <= limit
        assert clip.speech
        end = clip.start
        for span in clip.speech:
            assert end <= span.start < span.end <= clip.end
            assert span.start - end <= MAX_PAUSE
            end = span.end
        assert clip.end - end <= PADDING
        end = clip.end


@pytest.mark.parametrize("name", [file.stem for file in RECORDINGS])
def test_all_speech_of_a_recording_is_in_one_clip(name, speech, detector):
    samples = speech[name]
    (clip,) = find(samples, detector)
    assert_sound([clip], len(samples), 30 * RATE)
    assert np.sum(samples[clip.start : clip.end] ** 2) >= 0.995 * np.sum(samples**2)


def test_a_word_of_a_third_of_a_second_is_found(speech, detector):
    word = speech["sr_english"][int(0.1 * RATE) : int(0.45 * RATE)]  # "one"
    silence = np.zeros(3 * RATE, np.float32)
    (clip,) = find(np.concatenate((silence, word, silence)), detector)
    assert clip.start <= len(silence)
    assert clip.end >= len(silence) + len(word)
    assert len(find(word, detector)) == 1


SECONDS = np.arange(20 * RATE) / RATE
NOISE = np.random.default_rng(3).standard_normal(20 * RATE)
SOUNDS = {
    "nothing": np.zeros(0),
    "a moment": np.zeros(100),
    "digital silence": np.zeros(20 * RATE),
    "dither": np.round(NOISE * 0.5) / 32768,
    "loud white noise": NOISE * 0.3,
    "white noise": NOISE * 0.05,
    "soft white noise": NOISE * 0.003,
    "noise in waves": NOISE * 0.05 * (1 + np.sin(2 * np.pi * 4 * SECONDS)),
    "brown noise": np.cumsum(NOISE) / 2000,
    "clicks": np.where(np.arange(20 * RATE) % (RATE // 2) == 0, 0.9, 0),
    "claps": NOISE * 0.5 * np.exp(-(SECONDS % 1) * 30),
    "beeps": 0.4 * np.sin(2 * np.pi * 1000 * SECONDS) * (np.floor(SECONDS * 2) % 2),
    "ringing": 0.2 * (np.sin(2 * np.pi * 440 * SECONDS) + np.sin(2 * np.pi * 480 * SECONDS)) * (SECONDS % 4 < 2),
    "direct current": np.full(20 * RATE, 0.3),
    "clipped noise": np.sign(NOISE),
    **{f"tone of {hz} Hz": 0.3 * np.sin(2 * np.pi * hz * SECONDS) for hz in (50, 120, 200, 440, 1000, 3000, 7000)},
    **{
        f"hum of {hz} Hz, {level}": level * sum(np.sin(2 * np.pi * hz * n * SECONDS) / n for n in range(1, 12))
        for hz in (50, 60, 100, 120)
        for level in (0.01, 0.1, 0.3)
    },
}


@pytest.mark.parametrize("sound", SOUNDS)
def test_what_is_no_speech_gives_no_clip(sound, detector):
    assert find(SOUNDS[sound], detector) == []


def test_speech_in_noise_and_soft_speech_are_found(reading, detector):
    samples, places = reading
    noise = np.random.default_rng(1).standard_normal(len(samples)) * 0.01
    for changed in (samples + noise, samples * 0.05):
        found = find(changed, detector)
        for start, end in places:
            said = sum(max(0, min(clip.end, end) - max(clip.start, start)) for clip in found)
            assert said >= 0.97 * (end - start)


@pytest.mark.parametrize("limit_s", [5, 12, 30, 60])
def test_cuts_fall_between_sentences(limit_s, reading, detector):
    samples, places = reading
    found = find(samples, detector, limit_s)
    assert_sound(found, len(samples), limit_s * RATE)
    cuts = [cut for clip in found for cut in (clip.start, clip.end)]
    # Sentences that are longer than half the limit may have to be cut.
    short = [(start, end) for start, end in places if end - start < limit_s * RATE / 2]
    assert len(short) >= 8
    # Of the first and last 0.1 s, some is breath.
    assert [cut for cut in cuts for start, end in short if start + 1600 < cut < end - 1600] == []
    said = sum(max(0, min(clip.end, end) - max(clip.start, start)) for clip in found for start, end in places)
    assert said >= 0.98 * sum(end - start for start, end in places)


def test_speech_has_the_times_of_the_recording(reading, detector):
    samples, places = reading
    spans = [span for clip in find(samples, detector) for span in clip.speech]
    starts = [min(abs(span.start - start) for span in spans) / RATE for start, _ in places]
    ends = [min(abs(span.end - end) for span in spans) / RATE for _, end in places]
    assert np.median(starts) < 0.1
    assert np.median(ends) < 0.1
    assert max(starts + ends) < 0.5  # softly spoken beginnings; the padding holds most of them


def test_a_long_silence_is_in_no_clip_and_a_short_one_joins(speech, detector):
    word = speech["cards_001"]
    for gap_s, expected in ((0.5, 1), (1.2, 1), (4, 2), (20, 2)):
        samples = np.concatenate((word, np.zeros(int(gap_s * RATE), np.float32), word))
        assert len(find(samples, detector)) == expected


@pytest.mark.parametrize("piece", [999, 40_000, STEP, 10**7])
def test_a_growing_recording_gives_the_clips_of_a_whole_one(piece, reading, detector):
    samples, _ = reading
    recording = Recording(samples, piece)

    async def main():
        found, ready = [], []
        async for clip in clips(recording, detector, 12):
            found.append(clip)
            ready.append(recording.ready)
        return found, ready

    found, ready = asyncio.run(main())
    assert found == find(samples, detector, 12)
    # Certain once the limit or the pause is past, and seen at the next step.
    for clip, known in zip(found, ready, strict=True):
        assert known < clip.start + 12 * RATE + MAX_PAUSE + STEP + piece
    assert threading.get_ident() not in recording.readers


def test_what_breaks_the_recording_ends_the_clips(reading, detector):
    class Broken(Recording):
        async def wait_for(self, samples):
            if self.ready > 2 * STEP:
                raise BrokenAudio("The recording ends early.")
            return await super().wait_for(samples)

    found = []

    async def main():
        async for clip in clips(Broken(reading[0], RATE), detector, 5):
            found.append(clip)  # noqa: PERF401  a comprehension would lose them

    with pytest.raises(BrokenAudio):
        asyncio.run(main())
    assert found


def test_memory_does_not_grow_with_the_recording(speech, detector):
    class Loop(Recording):
        def __init__(self, samples, length):
            super().__init__(samples)
            self.length = length

        async def wait_for(self, samples):
            return min(samples, self.length)

        def read(self, start, end):
            return np.take(self.samples, np.arange(start, end), mode="wrap")

    async def main(length):
        tracemalloc.start()
        try:
            count = 0
            async for _ in clips(Loop(speech["jfk"], length), detector, 30):
                count += 1
            return count, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    asyncio.run(main(60 * RATE))
    few, short = asyncio.run(main(60 * RATE))
    many, long = asyncio.run(main(1200 * RATE))
    assert many > 15 * few
    assert long < short + 60_000  # the samples alone would be 73 MB more, their probabilities 0.14 MB


# The cutter alone, on made-up probabilities.

LIMIT = 10 * RATE


def cut(probabilities, limit=LIMIT, piece=None, recording=None):
    probabilities = np.asarray(probabilities, np.float32)
    cutter = Cutter(0.5, limit, recording)
    piece = piece or max(len(probabilities), 1)
    found = [
        clip
        for start in range(0, len(probabilities), piece)
        for clip in cutter.add(probabilities[start : start + piece])
    ]
    return found + list(cutter.end(len(probabilities) * FRAME))


def frames(seconds, probability=1.0):
    return [probability] * round(seconds * RATE / FRAME)


def test_a_cut_falls_into_the_longest_pause_of_the_second_half():
    before, pause = frames(3) + frames(0.6, 0) + frames(3), frames(0.5, 0)
    first, *_ = found = cut(before + pause + frames(1.5) + frames(0.3, 0) + frames(5))
    assert len(found) == 2
    assert first.speech[-1].end == len(before) * FRAME
    assert abs(first.end - (len(before) + len(pause) / 2) * FRAME) <= FRAME  # half of the pause to each
    assert found[1].start == first.end


def test_without_a_pause_a_cut_falls_where_speech_is_least_likely():
    before = frames(7)
    first, second = cut([*before, 0.9, 0.4, 0.2, 0.1, 0.2, 0.4, 0.9, *frames(1), 0.3, *frames(5)])
    assert first.end == second.start == (len(before) + 3) * FRAME + FRAME // 2


def test_a_pause_of_the_first_half_is_better_than_a_word():
    first, second = cut(frames(2) + frames(0.4, 0) + frames(9))
    assert first.speech[-1].end == round(2 * RATE / FRAME) * FRAME
    assert second.end - second.start <= LIMIT


def test_where_no_pause_exists_a_cut_falls_into_the_quietest_moment():
    samples = np.random.default_rng(2).standard_normal(60 * RATE).astype(np.float32) * 0.1
    quiet = [int(7.3 * RATE), int(15.1 * RATE)]
    for place in quiet:
        samples[place : place + 800] *= 0.3
    recording = Recording(samples)
    recording.ready = len(samples)
    found = cut(frames(20, 0.95), recording=recording)
    assert_sound(found, len(samples), LIMIT)
    for place, clip, following in zip(quiet, found, found[1:], strict=False):
        assert abs(clip.end - place - 400) <= 160
        assert clip.end == following.start


def test_what_follows_a_cut_is_no_snippet():
    for seconds in np.arange(10.1, 12, 0.1):
        recording = Recording(np.ones(20 * RATE, np.float32))
        recording.ready = 20 * RATE
        found = cut(frames(seconds), recording=recording)
        assert min(clip.end - clip.start for clip in found) >= LIMIT // 16


def test_a_blip_counts_only_beside_speech():
    blip, word = frames(0.13), frames(0.5)
    silence, gap = frames(4, 0), frames(1, 0)
    assert cut(silence + frames(0.1) + silence) == []
    assert len(cut(silence + word + silence)) == 1
    (clip,) = cut(silence + word + gap + blip + silence)
    assert [span.end - span.start for span in clip.speech] == [len(word) * FRAME, len(blip) * FRAME]


def test_the_end_of_a_recording_ends_its_clip():
    cutter = Cutter(0.5, LIMIT, None)
    assert list(cutter.add(np.ones(31, np.float32))) == []
    (clip,) = cutter.end(31 * FRAME - 100)
    assert (clip.start, clip.end) == (0, 31 * FRAME - 100)
    assert clip.speech[0].end == 31 * FRAME - 100


@pytest.mark.parametrize("seed", range(12))
def test_any_probabilities_in_any_pieces_give_sound_clips(seed):
    random = np.random.default_rng(seed)
    # Speech and silence of random lengths, with dips and blips.
    lengths = np.ceil(random.exponential(random.choice([5, 20, 120]), 200)).astype(int)
    levels = random.choice([0.0, 0.05, 0.4, 0.6, 0.99], 200, p=[0.35, 0.1, 0.1, 0.1, 0.35])
    probabilities = np.repeat(levels, lengths).astype(np.float32)
    samples = len(probabilities) * FRAME
    limit = int(random.choice([2, 5, 30, 200])) * RATE
    recording = Recording(random.standard_normal(samples).astype(np.float32))
    recording.ready = samples
    whole = cut(probabilities, limit, recording=recording)
    assert_sound(whole, samples, limit)
    for piece in (3, 100):
        assert cut(probabilities, limit, piece, recording) == whole
    # Certain speech of half a second and more is in some clip, whole.
    for start, end in _stretches(probabilities > 0.9):
        if end - start >= 16:
            covered = sum(max(0, min(clip.end, end * FRAME) - max(clip.start, start * FRAME)) for clip in whole)
            assert covered == (end - start) * FRAME


def _stretches(flags):
    return np.flatnonzero(np.diff(flags.astype(int), prepend=0, append=0)).reshape(-1, 2)


def test_speech_lasts_until_it_is_clearly_over():
    (clip,) = cut(frames(1) + frames(0.5, 0.4) + frames(1) + frames(0.5, 0.3) + frames(1))
    assert [round((span.end - span.start) / RATE, 1) for span in clip.speech] == [2.5, 1.0]


def test_speech_at_the_very_end_ends_with_the_recording(speech, detector):
    samples = speech["jfk"][: 7 * RATE + 100]  # within a word
    found = find(samples, detector)
    assert found[-1].end == found[-1].speech[-1].end == len(samples)


def test_a_pause_inside_a_word_does_not_part_it():
    (clip,) = cut(frames(1) + [0.0] * (MIN_PAUSE // FRAME) + frames(1))
    assert len(clip.speech) == 1
