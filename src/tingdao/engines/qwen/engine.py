"""Qwen3-ASR in this process: a local folder becomes an engine.

    recognise(clip, ask) ─ Dialogue ─► job ─ Batcher ─► QwenModel ─► tokens ─ Dialogue ─► text and language

All calls share one running batch. Torch and transformers, which come with the extra `qwen`, are imported when a model
is loaded and not before.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

from tingdao import languages
from tingdao.engines.base import Ask, ModelCard, Partial, Recognition
from tingdao.engines.batcher import Batcher, Model
from tingdao.engines.qwen.dialogue import Dialogue, Job, Reader
from tingdao.engines.qwen.tokenizer import read_tokenizer
from tingdao.engines.qwen.weights import open_checkpoint
from tingdao.errors import SetupError, TooLong, UnknownLanguage, UnsupportedOption
from tingdao.settings import QwenSettings
from tingdao.types import Clip, Usage

log = logging.getLogger(__name__)

CLIP_LIMIT = 1200.0
"""Seconds that the model takes in one piece."""
MEMORY_SHARE = {"cpu": 0.25, "cuda": 0.4}
"""Of the memory that is free once the weights are in, how much the rows of a batch may take. It is less than half: a
shelf that grows is there twice for a moment."""
WIDTH = {"cpu": 16, "cuda": 64}
"""Clips in one batch, by default."""


class QwenEngine:
    """One loaded Qwen3-ASR.

    model: what the batcher drives. width: clips in one batch. budget: tokens that a batch may hold.
    """

    def __init__(
        self, model: Model[Job], dialogue: Dialogue, name: str, *, width: int, budget: int, settings: QwenSettings
    ) -> None:
        self._dialogue, self._budget, self._context_limit = dialogue, budget, settings.context_tokens
        self._cost = model.cost
        self._batcher = Batcher(model, width=width, budget=budget, wait=settings.wait_ms / 1000, name=name)
        self.card = ModelCard(
            name=name,
            family="qwen3-asr",
            languages=frozenset(languages.NAMES),
            clip_limit=CLIP_LIMIT,
            width=width,
            can=frozenset({"stream", "context", "force_language"}),
        )

    @classmethod
    def load(cls, folder: Path, name: str, settings: QwenSettings) -> QwenEngine:
        """Load a folder of either layout; blocks for seconds. Raises SetupError."""
        checkpoint = open_checkpoint(folder)
        try:
            import torch

            from tingdao.engines.hardware import choose_device, choose_dtype, free_memory
            from tingdao.engines.qwen.decoder import Decoder
            from tingdao.engines.qwen.encoder import Encoder
            from tingdao.engines.qwen.model import QwenModel
        except ImportError as error:
            raise SetupError(
                f"Qwen3-ASR in this process needs PyTorch and transformers, and {error.name} is not installed. "
                "Run: pip install 'tingdao[qwen]'"
            ) from error
        device = choose_device(settings.device)
        dtype = choose_dtype(settings.dtype, device)
        dialogue = Dialogue(read_tokenizer(folder))
        try:
            decoder = Decoder(checkpoint, device, dtype)
            model = QwenModel(Encoder(checkpoint, device, dtype), decoder)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise SetupError(
                f"The weights of {name} ({checkpoint.size / 1e9:.1f} GB) do not fit into the memory of {device}. "
                "Take the smaller model, or another device: `[qwen] device`."
            ) from error
        budget = settings.memory_tokens or int(free_memory(device) * MEMORY_SHARE[device.type] / decoder.token_bytes)
        width = settings.width or WIDTH[device.type]
        log.info(
            "weights loaded",
            extra={"model": name, "layout": checkpoint.layout, "device": str(device), "dtype": str(dtype)}
            | {"width": width, "memory_tokens": budget},
        )
        return cls(model, dialogue, name, width=width, budget=budget, settings=settings)

    async def recognise(self, clip: Clip, ask: Ask) -> Recognition:
        """Recognise one clip. Raises EngineFailed, UnknownLanguage, ContextTooLong, TooLong, UnsupportedOption."""
        job = self._job(clip, ask)
        await self._batcher.run(job)
        return self._recognition(job, ask)

    async def recognise_stream(self, clip: Clip, ask: Ask) -> AsyncIterator[Partial]:
        """Recognise one clip and yield text as it comes. Raises as `recognise`."""
        job, reader = self._job(clip, ask), Reader(self._dialogue, ask)
        async with aclosing(self._batcher.watch(job)) as moves:
            async for _ in moves:
                if delta := reader.more(job.tokens):
                    yield Partial(delta)
        recognition = self._recognition(job, ask)
        yield Partial(reader.rest(recognition.text), recognition)

    async def close(self) -> None:
        """End all calls with EngineFailed and free the model."""
        await self._batcher.close()

    def _job(self, clip: Clip, ask: Ask) -> Job:
        if ask.language is not None and ask.language not in self.card.languages:
            raise UnknownLanguage(f"Qwen3-ASR does not recognise {ask.language!r}.", param="language")
        if ask.words:
            raise UnsupportedOption("Qwen3-ASR gives no word times itself.", param="words")
        job = self._dialogue.job(clip, ask, self._context_limit)
        if clip.duration > CLIP_LIMIT or self._cost(job) > self._budget:
            raise TooLong(
                f"A clip of {clip.duration:.0f} s is more than this model takes in one piece here. Lower the clip "
                "limit ([audio] clip_limit_s) or max_tokens."
            )
        return job

    def _recognition(self, job: Job, ask: Ask) -> Recognition:
        assert job.ended is not None
        text, language = self._dialogue.answer(job.tokens, ask)
        usage = Usage(job.prompt_tokens, job.completion_tokens)
        return Recognition(text, language, usage=usage, ended=job.ended)
