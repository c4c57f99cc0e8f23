"""Qwen3-ForcedAligner as the batcher drives it: one pass over a few clips of similar length gives all their steps.

    samples ─ log-mel ─┬─ model ─ scores of all steps at each <timestamp> ─ arg max
    prompt ────────────┘

The model is transformers' own, `Qwen3ASRForTokenClassification`, and so is the log-mel, which is made clip by clip:
made of a padded batch, it would depend on the neighbours. Everything here is called from one thread. It knows token
ids and steps of time, not words and seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    Qwen3ASRConfig,
    Qwen3ASREncoderConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForTokenClassification,
    Qwen3Config,
)
from transformers.utils import logging as transformers_logging

from tingdao.engines.aligner.prompt import Job, Prompter
from tingdao.engines.hardware import memory_errors
from tingdao.engines.qwen.weights import Checkpoint
from tingdao.types import SAMPLE_RATE

PASS = {"cpu": 512, "cuda": 32_768}
"""Tokens to a pass, padding included; a longer clip goes alone. On one CPU core, clips of 3 s took .39 s each alone and
.23 s where eight shared a pass (520 tokens); clips of 30 s (640 tokens) took 2.5 s either way."""


class AlignerModel:
    """The model, and the jobs that wait for their pass.

    step_ms: milliseconds to a step of time.
    """

    def __init__(self, checkpoint: Checkpoint, prompter: Prompter, device: torch.device, dtype: torch.dtype) -> None:
        self.step_ms = checkpoint.config["timestamp_segment_time"]
        self._timestamp, self._device, self._dtype = prompter.timestamp, device, dtype
        self._pass = PASS[device.type]
        self._jobs: list[Job] = []
        self._extractor = Qwen3ASRFeatureExtractor(feature_size=checkpoint.config["audio_config"]["num_mel_bins"])
        transformers_logging.disable_progress_bar()
        self._model = Qwen3ASRForTokenClassification.from_pretrained(
            None,
            config=_config(checkpoint, prompter),
            state_dict={name: checkpoint.tensor(name, device, dtype) for name in checkpoint.entries},
            dtype=dtype,
            attn_implementation="sdpa",
        )
        self._model.to(device).eval()

    def cost(self, job: Job) -> int:
        """Tokens of a job."""
        return len(job.ids)

    def enter(self, job: Job) -> None:
        """Take a job in."""
        self._jobs.append(job)

    def leave(self, job: Job) -> None:
        """Forget a job."""
        self._jobs.remove(job)

    def step(self) -> list[Job]:
        """Work on the oldest job and on those closest to it in length, as many as go into one pass."""
        jobs = self._together()
        with memory_errors(), torch.inference_mode():
            for job, steps in zip(jobs, self._steps(jobs), strict=True):
                job.steps, job.ended = steps, "stop"
        return jobs

    def _together(self) -> list[Job]:
        first, longest = self._jobs[0], 0
        chosen: list[Job] = []
        for job in sorted(self._jobs, key=lambda job: (abs(len(job.ids) - len(first.ids)), job is not first)):
            longest = max(longest, len(job.ids))
            if chosen and longest * (len(chosen) + 1) > self._pass:
                break
            chosen.append(job)
        return chosen

    def _steps(self, jobs: Sequence[Job]) -> list[list[int]]:
        """Predicted start and end of each word of each job in turn."""
        features = [self._features(job.samples) for job in jobs]
        ids = pad_sequence([torch.tensor(job.ids) for job in jobs], batch_first=True).to(self._device)
        # No mask for the text: what comes before never sees the padding, which is all behind.
        hidden = self._model.model(
            input_ids=ids,
            input_features=pad_sequence([frames.T for frames, _ in features], batch_first=True).transpose(1, 2),
            input_features_mask=pad_sequence([mask for _, mask in features], batch_first=True),
            use_cache=False,
        ).last_hidden_state
        # Only what is asked for is scored: the scores of every position would take more memory than all else.
        steps = self._model.score(hidden[ids == self._timestamp]).argmax(-1)
        return [part.tolist() for part in steps.split([2 * job.words for job in jobs])]

    def _features(self, samples: NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-mel frames (bins, frames) in whole seconds, and which of them are of the clip (frames,)."""
        made = self._extractor(
            samples,
            sampling_rate=SAMPLE_RATE,
            padding="longest",
            return_attention_mask=True,
            device=self._device.type,
        )
        frames: torch.Tensor = made["input_features"][0]
        mask: torch.Tensor = made["attention_mask"][0]
        return frames.to(self._device, self._dtype), mask.to(self._device)


def _config(checkpoint: Checkpoint, prompter: Prompter) -> Qwen3ASRConfig:
    """The config with what transformers knows of it."""
    known = checkpoint.config
    parts = {"audio_config": Qwen3ASREncoderConfig, "text_config": Qwen3Config}
    return Qwen3ASRConfig(
        **{
            part: kind(**{name: value for name, value in known[part].items() if hasattr(kind, name)})
            for part, kind in parts.items()
        },
        audio_token_id=prompter.audio,
        timestamp_token_id=prompter.timestamp,
        num_labels=known["num_labels"],
    )
