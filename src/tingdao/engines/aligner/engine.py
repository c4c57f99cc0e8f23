"""Qwen3-ForcedAligner: a clip and its text → when each word is said.

    text ─ words ─► units ─ prompt ─► jobs ─ batcher ─► model ─► steps ─ times ─► words

Up to `clip_limit` a clip is aligned in one piece. A longer one is aligned in parts: the aligner hears the next
`clip_limit` seconds and is given somewhat fewer words than they hold at the pace of the text, because it spreads few
words over much sound well, and piles words that are not there up at the end. Of these words those are kept that lie
safely before the end, up to the longest pause among the last sure ones; there the next part begins. Where no word is
sure, as in long silence, none is kept and the next part begins half a piece later. So every part gets on, whatever
the text, and what has found no place in the end is flagged.

All calls share one batch, and one thread owns the model (`batcher`). Torch and transformers, which come with the extra
`qwen`, are imported when a model is loaded and not before.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tingdao.cores import on_core
from tingdao.engines.aligner import words as aligner_words
from tingdao.engines.aligner.prompt import Job, Prompter
from tingdao.engines.aligner.times import UNTIMED, Flag, Span, spans
from tingdao.engines.aligner.words import LANGUAGES, Unit
from tingdao.engines.batcher import Batcher
from tingdao.engines.qwen.tokenizer import read_tokenizer
from tingdao.engines.qwen.weights import open_checkpoint
from tingdao.errors import SetupError
from tingdao.settings import AlignerSettings
from tingdao.types import SAMPLE_RATE, Clip, Word

if TYPE_CHECKING:
    from tingdao.engines.aligner.model import AlignerModel

log = logging.getLogger(__name__)

CLIP_LIMIT = 180.0
"""Seconds aligned in one piece, as in the official code. The model takes 300, but its times get worse towards them."""
FILL = 0.75
"""Of the words that a piece would hold at the pace of the text, how many it is given."""
TAIL = 5.0
"""Seconds before the end of a piece that are aligned again with what follows."""
SURE = 10
"""Words among which the longest pause is looked for."""
GAIN = 15.0
"""Seconds that a part must get on where words are left over, else it gets on by half a piece: bounds the work."""
WIDTH, BUDGET = 256, 1_000_000
"""Clips and tokens that may wait in the batch; how many of them go into one pass is the model's own affair."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """The words of a clip and what is to be said about their times.

    words: in order, without the punctuation around them; seconds from the clip's start. Each is a piece of the text as
        it stands there, so it is found again by looking for one after the other.
    flags: one for each word: "" as measured, "retimed" where start or end was filled in from the words around it,
        "untimed" where start and end are the same moment.
    """

    words: tuple[Word, ...] = ()
    flags: tuple[Flag, ...] = ()


class Aligner:
    """One loaded Qwen3-ForcedAligner.

    languages: ISO codes whose words it times. clip_limit: seconds it takes in one piece; longer clips go in parts.
    """

    languages = LANGUAGES
    clip_limit = CLIP_LIMIT

    def __init__(self, model: AlignerModel, prompter: Prompter) -> None:
        self._prompter, self._step_ms = prompter, model.step_ms
        self._batcher: Batcher[Job] = Batcher(model, width=WIDTH, budget=BUDGET, wait=0, name="aligner")

    @classmethod
    def load(cls, folder: Path, settings: AlignerSettings) -> Aligner:
        """Load a folder of either layout; blocks for seconds. Raises SetupError."""
        checkpoint = open_checkpoint(folder, "aligner")
        try:
            import torch

            from tingdao.engines.aligner.model import AlignerModel
            from tingdao.engines.hardware import choose_device, choose_dtype
        except ImportError as error:
            raise SetupError(
                f"The forced aligner needs PyTorch and transformers, and {error.name} is not installed. "
                "Run: pip install 'tingdao[qwen]'"
            ) from error
        device = choose_device(settings.device)
        dtype = choose_dtype(settings.dtype, device)
        prompter = Prompter(read_tokenizer(folder))
        try:
            model = AlignerModel(checkpoint, prompter, device, dtype)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise SetupError(
                f"The forced aligner ({checkpoint.size / 1e9:.1f} GB) does not fit into the memory of {device}. "
                "Take another device: `[aligner] device`."
            ) from error
        log.info("aligner loaded", extra={"layout": checkpoint.layout, "device": str(device), "dtype": str(dtype)})
        return cls(model, prompter)

    def require(self, language: str) -> None:
        """Make sure, before any work, that words of a language can be timed. Raises UnsupportedOption."""
        aligner_words.require(language)

    async def align(self, clip: Clip, text: str, language: str) -> Alignment:
        """When each word of the text is said in the clip.

        Times never run backwards and lie within the clip. Raises UnsupportedOption for a language that it does not
        know or whose words need a package that is not installed, EngineFailed when the model fails.
        """
        units = await on_core(aligner_words.split, text, language)
        timed = await self._times(clip.samples, units) if units else []
        shown = (text[unit.begin : unit.end] for unit in units)
        # The sum of two times may be a rounding error past the end.
        words = (
            Word(word, min(span.start, clip.duration), min(span.end, clip.duration))
            for word, span in zip(shown, timed, strict=True)
        )
        return Alignment(tuple(words), tuple(span.flag for span in timed))

    async def close(self) -> None:
        """End all calls with EngineFailed and free the model."""
        await self._batcher.close()

    async def _times(self, samples: NDArray[np.float32], units: Sequence[Unit]) -> list[Span]:
        """A span of the clip for each unit, part by part."""
        limit, begin, pace = round(self.clip_limit * SAMPLE_RATE), 0, 0.0
        timed: list[Span] = []
        while len(samples) - begin > limit:
            left = units[len(timed) :]
            pace = max(pace, len(left) * SAMPLE_RATE / (len(samples) - begin))
            given = left[: ceil(FILL * self.clip_limit * pace)]
            part = await self._piece(samples[begin : begin + limit], given)
            count, reached = _kept(part, self.clip_limit)
            timed += [span.later(begin / SAMPLE_RATE) for span in part[:count]]
            begin, pace = begin + round(reached * SAMPLE_RATE), count / reached
        rest = await self._piece(samples[begin:], units[len(timed) :])
        return [*timed, *(span.later(begin / SAMPLE_RATE) for span in rest)]

    async def _piece(self, samples: NDArray[np.float32], units: Sequence[Unit]) -> list[Span]:
        """A span of at most `clip_limit` seconds for each unit; those past any speaker's pace are not looked for."""
        job = self._prompter.job(samples, units)
        if job.words:
            await self._batcher.run(job)
        found = spans(job.steps, self._step_ms, len(samples) / SAMPLE_RATE)
        end = found[-1].end if found else 0.0
        return found + [Span(end, end, UNTIMED)] * (len(units) - len(found))


def _kept(part: Sequence[Span], limit: float) -> tuple[int, float]:
    """How many words of a part are kept, and the second at which the next one begins."""
    sure = [not span.flag and span.end <= limit - TAIL for span in part]
    # A sure word beside others that are not may have been placed by chance.
    cuts = [place for place in range(2, len(part) - 1) if all(sure[place - 2 : place + 2])][-SURE:]
    if not cuts:
        return 0, limit / 2
    cut = max(cuts, key=lambda place: (part[place + 1].start - part[place].end, place))
    reached = (part[cut].end + part[cut + 1].start) / 2
    if reached < GAIN and part[-1].end > limit - TAIL:
        reached = limit / 2
    return cut + 1, reached
