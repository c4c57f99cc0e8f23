"""The embedded model: Whisper base, int8, through faster-whisper and CTranslate2.

It works on any CPU with nothing downloaded, knows segment and word times, and stands in until Qwen3-ASR is set up.
Each recognition runs on one of `workers` threads; CTranslate2 releases the interpreter lock while it computes. A
cancelled recognition that waits is dropped at once; one that runs ends with the window it is in (at most 30 s of
audio), because CTranslate2 cannot be interrupted inside one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from numpy.typing import NDArray

from tingdao import cores
from tingdao.engines.base import Ask, ModelCard, Partial, Recognition
from tingdao.errors import EngineFailed
from tingdao.settings import EmbeddedSettings
from tingdao.types import Clip, Evidence, Segment, Usage, Word, join_texts

log = logging.getLogger(__name__)

WINDOW_SECONDS = 30.0
FRAMES_PER_SECOND = 100
# Whisper's codes that have another ISO 639-1 code.
ISO = {"jw": "jv"}
# Whisper base writes Chinese in either script; a prompt in simplified characters with punctuation settles it.
CHINESE_PROMPT = "以下是普通话的句子，有标点。"


class _EncodesOnce(WhisperModel):  # type: ignore[misc]  # the library has no types
    """A model that does not encode again, on the same thread, what it has just encoded.

    Detecting the language and transcribing each encode the window, which is the larger half of the work on a short
    clip; the second encoding is the first one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  the library's own arguments
        super().__init__(*args, **kwargs)
        self._last = threading.local()

    def encode(self, features: NDArray[np.float32]) -> ctranslate2.StorageView:
        """Encoder output of a window of features."""
        last = getattr(self._last, "window", None)
        if last is None or not np.array_equal(last[0], features):
            last = self._last.window = (features, super().encode(features))
        return last[1]


class WhisperEngine:
    """Whisper base on the CPU."""

    def __init__(self, model: WhisperModel, name: str, settings: EmbeddedSettings) -> None:
        self._model = model
        self._beam_size = settings.beam_size
        self._pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="whisper")
        self.card = ModelCard(
            name=name,
            family="whisper",
            languages=frozenset(ISO.get(code, code) for code in model.supported_languages),
            clip_limit=WINDOW_SECONDS,
            width=settings.workers,
            can=frozenset({"words", "context", "force_language"}),
            stand_in=True,
        )

    @classmethod
    def load(cls, folder: Path, name: str, settings: EmbeddedSettings) -> WhisperEngine:
        """Load the weights; takes about a second and blocks."""
        model = _EncodesOnce(
            str(folder),
            device="cpu",
            compute_type="int8",
            cpu_threads=max(1, cores.COUNT // settings.workers),
            num_workers=settings.workers,
            local_files_only=True,
        )
        return cls(model, name, settings)

    async def recognise(self, clip: Clip, ask: Ask) -> Recognition:
        """Recognise one clip of at most 30 s. Raises EngineFailed."""
        cancelled = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._recognise, clip, ask, cancelled)
        except RuntimeError as error:  # CTranslate2's only kind of error, and a pool that was shut down
            log.exception("recognition failed")
            raise EngineFailed("The model failed on a part of this recording. Try again.") from error
        finally:
            cancelled.set()

    async def recognise_stream(self, clip: Clip, ask: Ask) -> AsyncIterator[Partial]:
        """The whole text at once: this engine does not stream."""
        recognition = await self.recognise(clip, ask)
        yield Partial(recognition.text, recognition)

    async def close(self) -> None:
        """Let running windows end and free the threads."""
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)

    def _recognise(self, clip: Clip, ask: Ask, cancelled: threading.Event) -> Recognition:
        language = ask.language or self._detect(clip)
        pieces, _ = self._model.transcribe(
            clip.samples,
            language={iso: code for code, iso in ISO.items()}.get(language, language),
            beam_size=self._beam_size,
            initial_prompt=(CHINESE_PROMPT if language == "zh" else "") + ask.context or None,
            prefix=ask.prefix or None,
            condition_on_previous_text=False,
            word_timestamps=ask.words,
            max_new_tokens=ask.max_tokens,
        )
        segments = []
        for piece in pieces:
            if cancelled.is_set():
                break
            if text := piece.text.strip():
                segments.append(_segment(piece, text, language, clip.duration))
        tokens = sum(len(segment.evidence.tokens) for segment in segments if segment.evidence)
        return Recognition(
            text=join_texts([(segment.text, language) for segment in segments]),
            language=language if segments else None,
            segments=tuple(segments),
            usage=Usage(completion_tokens=tokens),
        )

    def _detect(self, clip: Clip) -> str:
        features = self._model.feature_extractor(clip.samples)
        # Without the last frame, as `transcribe` cuts it, so that both encode the same window.
        code, _, _ = self._model.detect_language(features=features[..., :-1])
        return str(ISO.get(code, code))


def _segment(piece: Any, text: str, language: str, duration: float) -> Segment:  # noqa: ANN401  an untyped library's
    """A segment of faster-whisper as ours; times past the clip's end come from the model's padding and are cut."""
    words = None
    if piece.words is not None:
        words = tuple(
            Word(word.word.strip(), min(word.start, duration), min(word.end, duration)) for word in piece.words
        )
    return Segment(
        text=text,
        start=min(piece.start, duration),
        end=min(piece.end, duration),
        language=language,
        words=words,
        evidence=Evidence(
            seek=piece.seek,
            tokens=tuple(piece.tokens),
            temperature=piece.temperature or 0.0,
            avg_logprob=piece.avg_logprob,
            compression_ratio=piece.compression_ratio,
            no_speech_prob=piece.no_speech_prob,
        ),
    )
