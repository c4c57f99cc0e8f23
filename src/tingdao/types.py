"""The nouns that every part of the service shares.

A recording is cut into clips; an engine turns a clip and an `Ask` into a `Recognition`; the pipeline turns
recognitions into `Segment`s of the recording's own time; all segments together are a `Transcript`.

All times are seconds, as float. All audio is mono at `SAMPLE_RATE`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tingdao.languages import UNSPACED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SAMPLE_RATE = 16_000
"""Hz. Everything behind the decoder is mono at this rate."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A whole recording in the bytes that it was sent in, mono at `SAMPLE_RATE`. duration: exact, in seconds."""

    data: bytes
    form: Literal["wav", "flac"]
    duration: float


@dataclass(frozen=True, slots=True)
class Clip:
    """A piece of a recording that is short enough for an engine.

    samples: float32, shape (n,), in [-1, 1], mono at `SAMPLE_RATE`.
    start: where the clip begins in the recording, in seconds.
    sent: the clip as it was sent, in place of samples, for engines that take it (`ModelCard.sent_limit`).
    """

    samples: NDArray[np.float32]
    start: float = 0.0
    sent: Sent | None = None

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.sent.duration if self.sent else len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Term:
    """A word that the caller expects, and how it may be heard.

    word: as it is to be written: a name, a product, a phrase.
    sounds_like: spellings by sound: pinyin without tones for Chinese ("bu er jia"), respelling for Latin script
        ("cooper netties").
    weight: terms of more weight go first where only some fit, such as the model's context.
    """

    word: str
    sounds_like: tuple[str, ...] = ()
    weight: float = 1.0


Script = Literal["simplified", "traditional"]
"""The characters Chinese is written in."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller asks of one transcription.

    language: ISO 639 code of the only language spoken, or None to detect it.
    languages: the only languages that may be detected, the likeliest first; empty for any.
    context: free text that helps the model: names, topic, earlier text.
    words: whether every segment must carry words with times.
    subtitles: whether the segments are to be timed as finely as can be done without failing.
    terms: words that the caller expects.
    vocabularies: names of term lists in the settings, whose terms are expected too.
    numbers: whether spoken numbers, dates and the like are written in figures (inverse text normalisation); None
        is what the settings say.
    script: the characters Chinese is written in; None is what the settings say.
    """

    language: str | None = None
    languages: tuple[str, ...] = ()
    context: str = ""
    words: bool = False
    subtitles: bool = False
    terms: tuple[Term, ...] = ()
    vocabularies: tuple[str, ...] = ()
    numbers: bool | None = None
    script: Script | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """A word (a character, in Chinese) with its start and end in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """How sure an engine was of a segment, in the terms of OpenAI's `verbose_json`.

    Only engines that really measure these give them. `seek` is where the model's window began, in frames of 10 ms.
    """

    seek: int
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


@dataclass(frozen=True, slots=True)
class Correction:
    """A term that was written in place of what the model heard.

    heard: what the model wrote.
    written: the term.
    at: where `written` begins in the segment's text, in characters.
    exact: whether both sound the same; else they are only near.
    """

    heard: str
    written: str
    at: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech with its text; `start` and `end` are seconds.

    flags: what was repaired or is doubtful here, by the names in `pipeline.repair`.
    corrections: the terms that were written in place of what the model heard.
    """

    text: str
    start: float
    end: float
    language: str | None = None
    words: tuple[Word, ...] | None = None
    flags: tuple[str, ...] = ()
    evidence: Evidence | None = None
    corrections: tuple[Correction, ...] = ()


@dataclass(frozen=True, slots=True)
class Opening:
    """What the next segment's text is sure to begin with, for those who show text as it comes.

    The end of its sentence may depend on what is said next, and on this the whole segment waits.
    """

    text: str
    language: str | None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the model that ran, counted by its own tokenizer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transcription has come, in seconds of the recording.

    total: the real duration once decoding is through; until then what has been decoded so far.
    """

    done: float
    total: float
    decoded: bool


@dataclass(frozen=True, slots=True)
class Transcript:
    """The whole result.

    language: the language of most of the speech, or None when there was no speech.
    duration: of the recording, in seconds, as decoded.
    model: the name of the model that ran.
    hinted: the expected terms that were in the model's context, as written; None when no terms were expected.
    """

    segments: tuple[Segment, ...]
    language: str | None
    duration: float
    model: str
    usage: Usage = field(default_factory=Usage)
    hinted: tuple[str, ...] | None = None

    @property
    def text(self) -> str:
        """All segments joined as their languages' scripts ask: with spaces, or without in Chinese and Japanese."""
        return join_texts([(segment.text, segment.language) for segment in self.segments])


Event = Progress | Opening | Segment | Transcript
"""What a transcription gives while it runs; the transcript is the last."""


class Joined:
    """Texts joined one after another as they come: what `add` gives, put together, is the whole.

    A space goes between two parts unless either side is unspaced script. A part of no known language is taken to be
    in that of the part before it.
    """

    def __init__(self) -> None:
        self._begun = False
        self._language: str | None = None
        self._opening = ""

    def open(self, opening: Opening) -> str:
        """What the beginning of the next text adds; `add` then gives the rest of that text."""
        added = self.add(opening.text, opening.language)
        self._opening = opening.text.strip()
        return added

    def add(self, text: str, language: str | None) -> str:
        """What the next text adds to the whole: itself, with a space before it where one belongs."""
        text = text.strip()
        if self._opening:
            assert text.startswith(self._opening), "an opening is what its segment begins with"
            rest, self._opening = text[len(self._opening) :], ""
            return rest
        if not text:
            return ""
        language = language or self._language
        spaced = self._begun and self._language not in UNSPACED and language not in UNSPACED
        self._begun, self._language = True, language
        return f" {text}" if spaced else text


def join_texts(parts: Iterable[tuple[str, str | None]]) -> str:
    """Join (text, language) pairs by the rule of `Joined`."""
    joined = Joined()
    return "".join(joined.add(text, language) for text, language in parts)
