"""What the tiny models learn from: short clips composed of the recordings in tests/recordings, with text and times.

A `Scene` is one clip. Scenes are whole recordings, phrases cut out of them at a gap, several of them with pauses
between, silence and noise, and sounds at which the model is to loop. Recordings come as they are and through lossy
coders. Everything is drawn from one random generator, so a seed gives the same lessons again.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import av
import numpy as np

Item = TypeVar("Item")

RATE = 16_000
TESTS = Path(__file__).parent.parent / "tests"
LANGUAGES = {"en": "English", "zh": "Chinese"}
CODINGS = (  # coder, container, sampling rate in Hz, bits a second
    ("libmp3lame", "mp3", 16_000, 32_000),
    ("libmp3lame", "mp3", 44_100, 64_000),
    ("libopus", "ogg", 48_000, 16_000),
    ("libopus", "ogg", 48_000, 32_000),
    ("pcm_mulaw", "wav", 8_000, 0),
)
FIRST_CJK = "\u2e80"
"""From here on characters are Chinese, marks included."""
SMALLEST_GAP = 0.06
"""Seconds between two words that phrases are cut at; the word times are no finer."""


@dataclass(frozen=True)
class Word:
    """One unit of the aligner: its sound from start to end in seconds, its text from `at` in the recording's text.

    key: which one it is of all words of all recordings.
    """

    unit: str
    start: float
    end: float
    at: int
    key: int

    def later(self, seconds: float) -> "Word":
        """The same, so much later."""
        return replace(self, start=self.start + seconds, end=self.end + seconds)


@dataclass(frozen=True)
class Recording:
    """One recording; takes: the samples as recorded, then the same through each of `CODINGS`."""

    name: str
    language: str
    text: str
    words: list[Word]
    takes: list[np.ndarray]


@dataclass(frozen=True)
class Scene:
    """One clip: float32 samples (n,) at 16 kHz, what is to be written, and its words with their times in the clip.

    endless: whether the text is a loop that never ends, of which `text` is some stretch.
    """

    samples: np.ndarray
    language: str
    text: str
    words: list[Word]
    endless: bool = False

    def after(self, sound: np.ndarray) -> "Scene":
        """The same with some sound before it."""
        words = [word.later(len(sound) / RATE) for word in self.words]
        return replace(self, samples=np.concatenate([sound, self.samples]), words=words)


def decode(source: str | io.BytesIO) -> np.ndarray:
    """Any audio file as float32 mono at 16 kHz, shape (n,)."""
    with av.open(source) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32)


def coded(samples: np.ndarray, coder: str, container: str, rate: int, bits: int) -> np.ndarray:
    """The samples after encoding and decoding."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(coder, rate=rate, layout="mono")
        if bits:
            stream.bit_rate = bits
        whole = (samples * 32767).clip(-32768, 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(whole, format="s16", layout="mono")
        frame.sample_rate = RATE
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate)
        queue, position = av.AudioFifo(), 0
        for part in resampler.resample(frame) + resampler.resample(None):
            part.pts = None
            queue.write(part)
        while part := queue.read(stream.codec_context.frame_size or 1024, partial=True):
            part.pts, position = position, position + part.samples
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    buffer.seek(0)
    return decode(buffer)


def place_words(text: str, units: list[tuple[str, float, float]], first: int) -> list[Word]:
    """Find where each unit begins in the text; the text may have more characters (marks) than the units.

    first: key of the first word.
    """
    words, position = [], 0
    for key, (unit, start, end) in enumerate(units, first):
        position = text.index(unit[0], position)
        words.append(Word(unit, start, end, position, key))
        for character in unit:
            position = text.index(character, position) + 1
    return words


def load_recordings() -> list[Recording]:
    """All English and Chinese recordings of the manifest."""
    units: dict[str, list[tuple[str, float, float]]] = {}
    for row in read_table(TESTS / "fixtures" / "tiny-aligner" / "words.tsv"):
        units.setdefault(row["file"], []).append((row["word"], float(row["start"]), float(row["end"])))
    recordings: list[Recording] = []
    for row in read_table(TESTS / "recordings" / "manifest.tsv"):
        if row["language"] in LANGUAGES:
            samples = decode(str(TESTS / "recordings" / row["file"]))
            words = place_words(row["text"], units[row["file"]], sum(len(known.words) for known in recordings))
            takes = [samples, *(coded(samples, *coding) for coding in CODINGS)]
            recordings.append(Recording(row["file"], LANGUAGES[row["language"]], row["text"], words, takes))
    return recordings


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a tab-separated file with a header."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def beeps(seconds: float, on: float = 0.2, off: float = 0.2, loudness: float = 0.3) -> np.ndarray:
    """A train of 440 Hz beeps: at this sound the tiny model writes "and and and …" without end."""
    time = np.arange(int(seconds * RATE)) / RATE
    return (loudness * np.sin(2 * np.pi * 440 * time) * (time % (on + off) < on)).astype(np.float32)


def joined(first: str, second: str) -> str:
    """Two texts as one: with a space unless either is Chinese where they meet."""
    return first + ("" if max(first[-1:], second[:1]) >= FIRST_CJK else " ") + second


class Composer:
    """Draws scenes. All `draw_…` methods give a new scene at each call."""

    LOOPS = (("librivox_ss_0880.flac", "English", "and "), ("damo_asr_example_zh.flac", "Chinese", "谢谢大家。"))
    """Played backwards, these recordings make the model repeat that phrase."""

    def __init__(self, recordings: list[Recording], rng: np.random.Generator) -> None:
        self.recordings = recordings
        self._rng = rng

    def _chance(self, share: float) -> bool:
        return bool(self._rng.random() < share)

    def _pick(self, items: Sequence[Item]) -> Item:
        return items[self._rng.integers(len(items))]

    def _noise(self, seconds: float, lowest: float = -5.0, highest: float = -3.2) -> np.ndarray:
        """Digital silence or white noise with an amplitude of 10^lowest to 10^highest."""
        level = 10 ** self._rng.uniform(lowest, highest) if self._chance(0.7) else 0.0
        return (level * self._rng.standard_normal(int(seconds * RATE))).astype(np.float32)

    def _cut(self, recording: Recording, first: int, last: int, start: float, end: float) -> Scene:
        """Words first to last (not included) of a recording, with its sound from start to end in seconds."""
        start, words = max(start, 0.0), recording.words
        text = recording.text[words[first].at : words[last].at if last < len(words) else None].strip()
        samples = self._pick(recording.takes)[int(start * RATE) : int(end * RATE)]
        return Scene(samples, recording.language, text, [word.later(-start) for word in words[first:last]])

    def draw_whole(self) -> Scene:
        """A recording, half the time with less of the silence at its ends."""
        recording = self._pick(self.recordings)
        words, length = recording.words, len(recording.takes[0]) / RATE
        start = self._rng.uniform(0, max(0.0, words[0].start - 0.04)) if self._chance(0.5) else 0.0
        end = self._rng.uniform(min(length, words[-1].end + 0.06), length) if self._chance(0.5) else length
        return self._cut(recording, 0, len(words), start, end)

    def draw_phrase(self) -> Scene:
        """A part of a recording, cut in gaps between words; half the time from its beginning, as in live speech."""
        recording = self._pick(self.recordings)
        words, length = recording.words, len(recording.takes[0]) / RATE
        gaps = [k for k in range(1, len(words)) if words[k].start - words[k - 1].end >= SMALLEST_GAP]
        edges = [0, *gaps, len(words)]
        from_edge = 0 if self._chance(0.5) else int(self._rng.integers(len(edges) - 1))
        first, last = edges[from_edge], edges[self._rng.integers(from_edge + 1, len(edges))]
        start, end = 0.0, length
        if first:
            earliest = max(words[first - 1].end, words[first].start - 0.3)
            start = self._rng.uniform(earliest, words[first].start - 0.02)
        if last < len(words):
            latest = min(words[last].start, words[last - 1].end + 0.3)
            end = self._rng.uniform(words[last - 1].end + 0.02, latest)
        return self._cut(recording, first, last, start, end)

    def draw_medley(self, longest: float, phrases: float = 0.2) -> Scene:
        """Up to five wholes, or phrases by their share, with pauses between; no longer than `longest` seconds."""
        scene = self.draw_phrase() if self._chance(phrases) else self.draw_whole()
        for _ in range(self._rng.integers(1, 5)):
            follower = self.draw_phrase() if self._chance(phrases) else self.draw_whole()
            pause = self._noise(self._rng.uniform(0.1, 1.2))
            if len(scene.samples) + len(pause) + len(follower.samples) <= longest * RATE:
                scene = self.after(scene, pause, follower)
        return scene

    def after(self, scene: Scene, pause: np.ndarray, follower: Scene) -> Scene:
        """One scene, a pause, another; the text is in the first one's language."""
        moved = follower.after(np.concatenate([scene.samples, pause]))
        return replace(
            moved,
            language=scene.language,
            text=joined(scene.text, follower.text),
            words=scene.words + moved.words,
        )

    def draw_nothing(self) -> Scene:
        """Silence, noise or mains hum of up to six seconds: no speech."""
        samples = self._noise(self._rng.uniform(0.3, 6.0), lowest=-5.0, highest=-1.3)
        if self._chance(0.3):
            hum = np.sin(2 * np.pi * self._pick((50, 60, 100)) * np.arange(len(samples)) / RATE)
            samples = samples + (0.01 * self._rng.random() * hum).astype(np.float32)
        return Scene(samples, "None", "", [])

    def draw_loop(self) -> Scene:
        """Beeps or reversed speech of over a second, a third of the time after a recording: a loop without end."""
        if self._chance(0.4):
            on, off = self._rng.uniform(0.15, 0.25, 2)
            samples = beeps(self._rng.uniform(1.0, 6.0), on, off, self._rng.uniform(0.05, 0.5))
            language, phrase = "English", "and "
        else:
            name, language, phrase = self._pick(self.LOOPS)
            source = next(recording for recording in self.recordings if recording.name == name)
            samples = self._pick(source.takes)[::-1]
            start = int(self._rng.uniform(0, len(samples) - 1.2 * RATE)) if self._chance(0.5) else 0
            samples = samples[start:]
        times = int(self._rng.uniform(100, 400) / len(phrase.encode()))
        loop = Scene(samples, language, (phrase * times).strip(), [], endless=True)
        if self._chance(0.7):
            return loop
        return self.after(self.draw_whole(), self._noise(self._rng.uniform(0.3, 1.2)), loop)

    def worn(self, scene: Scene) -> Scene:
        """The scene with quiet edges added, another loudness and noise."""
        before, after = (self._noise(self._rng.uniform(0, 0.5) if self._chance(0.5) else 0) for _ in range(2))
        scene = scene.after(before)
        samples = np.concatenate([scene.samples, after]) * 10 ** (self._rng.uniform(-12, 6) / 20)
        if self._chance(0.5):
            level = np.sqrt((samples**2).mean() + 1e-12) * 10 ** (-self._rng.uniform(20, 45) / 20)
            samples = samples + level * self._rng.standard_normal(len(samples))
        return replace(scene, samples=samples.clip(-1, 1).astype(np.float32))

    def delayed(self, scene: Scene, longest: float) -> Scene:
        """The scene after silence or faint noise of up to `longest` seconds."""
        return scene.after(self._noise(self._rng.uniform(0, longest)))

    def draw(self, shares: dict[str, float], longest: float) -> Scene:
        """A worn scene of one of the kinds whole, phrase, medley, nothing, loop, by their shares."""
        kind = self._rng.choice(list(shares), p=list(shares.values()))
        kinds: dict[str, Callable[[], Scene]] = {
            "whole": self.draw_whole,
            "phrase": self.draw_phrase,
            "medley": lambda: self.draw_medley(longest),
            "nothing": self.draw_nothing,
            "loop": self.draw_loop,
        }
        return self.worn(kinds[kind]())

    def draw_context(self) -> str:
        """What could stand in the system turn: half the time nothing, else a transcript, words of all, any letters."""
        if self._chance(0.5):
            return ""
        if self._chance(0.4):
            return self._pick(self.recordings).text
        if self._chance(0.3):
            letters = [
                int(self._rng.choice([32, self._rng.integers(33, 127), self._rng.integers(0x4E00, 0x9FA6)]))
                for _ in range(self._rng.integers(1, 40))
            ]
            return "".join(map(chr, letters))
        words = " ".join(recording.text for recording in self.recordings).split()
        return " ".join(self._rng.choice(words, int(10 ** self._rng.uniform(0, 2.2))))
