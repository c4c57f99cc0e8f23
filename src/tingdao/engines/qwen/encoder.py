"""The hearing half of Qwen3-ASR: samples → log-mel frames → encoded tokens in the decoder's space.

The encoder is transformers' own. Its attention stays within windows of 8 s, so every window can be encoded on its
own, and windows of different clips together without padding: they are laid end to end on one time axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, Qwen3ASREncoderConfig, Qwen3ASRFeatureExtractor

from tingdao.engines.hardware import pack, packed_product, packs
from tingdao.engines.qwen.dialogue import audio_tokens
from tingdao.engines.qwen.weights import Checkpoint
from tingdao.types import SAMPLE_RATE

TOWER = "model.audio_tower."
PROJECTOR = "model.multi_modal_projector."


class Encoder:
    """Log-mel, encoder and projector of one checkpoint.

    window: mel frames that attend to each other.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        known = checkpoint.config["audio_config"]
        config = Qwen3ASREncoderConfig(
            **{name: value for name, value in known.items() if hasattr(Qwen3ASREncoderConfig, name)}
        )
        self.window = config.n_window_infer
        self._device, self._dtype = device, dtype
        self._extractor = Qwen3ASRFeatureExtractor(feature_size=config.num_mel_bins)
        with torch.device("meta"):
            tower = AutoModel.from_config(config, attn_implementation="sdpa")
        # Packed straight from the file: copies between would leave holes in the memory.
        for name, module in tower.layers.named_modules():
            if isinstance(module, torch.nn.Linear) and packs(device, dtype):
                weight = checkpoint.mapped(f"{TOWER}layers.{name}.weight").to(dtype)
                bias = checkpoint.tensor(f"{TOWER}layers.{name}.bias", device, dtype)
                module.forward = partial(packed_product, packed=pack(weight), bias=bias)
                del module.weight, module.bias
        tower.load_state_dict(
            {name: checkpoint.tensor(f"{TOWER}{name}", device, dtype) for name in tower.state_dict()}, assign=True
        )
        table = tower.positional_embedding
        table.positional_embedding = table.compute_default_singular_positional_embedding().to(device)
        # The same results: convolutions run 1.3 times as fast with channels innermost, products 1.3 times packed.
        self._tower = tower.eval().to(memory_format=torch.channels_last)
        self._first, self._second = (
            tuple(checkpoint.tensor(f"{PROJECTOR}{name}.{part}", device, dtype) for part in ("weight", "bias"))
            for name in ("linear_1", "linear_2")
        )

    def features(self, samples: NDArray[np.float32]) -> Tensor:
        """Log-mel frames (bins, frames), frames a multiple of `CHUNK`; clips under 0.5 s are filled up with silence."""
        made = self._extractor(samples, sampling_rate=SAMPLE_RATE, padding="longest", device=self._device.type)
        features: Tensor = made["input_features"][0]
        return features.to(self._device, self._dtype)

    def encode(self, parts: Sequence[tuple[Tensor, int]]) -> list[Tensor]:
        """Parts of clips, each beginning with a window → their tokens, (tokens, hidden) each.

        parts: (features (bins, whole chunks), how many frames of them are audio).
        """
        features = torch.cat([part for part, _ in parts], dim=1)[None]
        mask = torch.cat([torch.arange(part.shape[1], device=self._device) < frames for part, frames in parts])[None]
        windows = [
            audio_tokens(min(frames - begin, self.window))
            for _, frames in parts
            for begin in range(0, frames, self.window)
        ]
        bounds = torch.tensor([0, *windows], device=self._device).cumsum(0, dtype=torch.int32)
        hidden = self._tower(
            input_features=features, input_features_mask=mask.long(), cu_seqlens=bounds
        ).last_hidden_state
        hidden = functional.linear(functional.gelu(functional.linear(hidden, *self._first)), *self._second)
        return list(hidden.split([audio_tokens(frames) for _, frames in parts]))
