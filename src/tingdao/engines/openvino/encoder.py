"""The hearing half of Qwen3-ASR on OpenVINO: samples → log-mel frames → encoded tokens in the decoder's space.

    frames ─ windows of 8 s: whole ones of all clips in one call, each last one in its own ─ tokens

Attention stays within a window, so whole windows are a plain batch, and the shorter ones at the ends of clips need
neither padding nor masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino
from faster_whisper.feature_extractor import FeatureExtractor
from numpy.typing import NDArray
from openvino import Type

from tingdao.engines.openvino.graph import encoder_graph
from tingdao.engines.openvino.runtime import compile_graph, exact, fast, half, has_bfloat16
from tingdao.engines.openvino.weights import Weights
from tingdao.engines.qwen.dialogue import CHUNK, SHORTEST, audio_tokens

Floats = NDArray[np.float32]


class Encoder:
    """Log-mel, encoder and projector.

    window: mel frames that attend to each other.
    """

    def __init__(self, weights: Weights, threads: int) -> None:
        audio = weights.config["audio_config"]
        self.window: int = audio["n_window_infer"]
        self._hidden: int = audio["output_dim"]
        # Whisper's features, as the original feature extractor is Whisper's.
        self._extractor = FeatureExtractor(feature_size=audio["num_mel_bins"])
        self._weights = weights  # whose memory the graph points into
        kind, options = Type.f32, exact()
        if weights.precision != "float32":
            kind, options = (Type.bf16, half()) if has_bfloat16() else (Type.f32, fast())
        self._request = compile_graph(encoder_graph(weights, kind), threads, **options).create_infer_request()

    def features(self, samples: Floats) -> Floats:
        """Log-mel frames (bins, frames), frames a multiple of `CHUNK`; clips under 0.5 s are filled up with silence."""
        samples = np.pad(samples, (0, max(SHORTEST - len(samples), 0)))
        made = self._extractor(samples, padding=0)
        frames = made.shape[1]
        padded: Floats = np.pad(made, ((0, 0), (0, -frames % CHUNK)))
        return padded

    def encode(self, parts: Sequence[tuple[Floats, int]]) -> list[Floats]:
        """Parts of clips, each beginning with a window → their tokens, (tokens, hidden) each.

        parts: (features (bins, whole chunks), how many frames of them are audio).
        """
        made = [np.empty((audio_tokens(frames), self._hidden), np.float32) for _, frames in parts]
        whole = [
            (tokens, features, number)
            for tokens, (features, frames) in zip(made, parts, strict=True)
            for number in range(frames // self.window)
        ]
        each = audio_tokens(self.window)
        if whole:
            heard = self._run([features[:, n * self.window : (n + 1) * self.window] for _, features, n in whole], each)
            for (tokens, _, number), window in zip(whole, heard, strict=True):
                tokens[number * each : (number + 1) * each] = window
        for tokens, (features, frames) in zip(made, parts, strict=True):
            if rest := frames % self.window:
                begin = frames - rest
                last = features[:, begin : begin + -(-rest // CHUNK) * CHUNK]
                tokens[begin // self.window * each :] = self._run([last], audio_tokens(rest))[0]
        return made

    def _run(self, windows: list[Floats], tokens: int) -> Floats:
        """Windows of one length, (bins, whole chunks) each → (windows, tokens, hidden)."""
        bins = windows[0].shape[0]
        stacked = np.stack(windows).reshape(len(windows), bins, -1, CHUNK).swapaxes(1, 2)
        given = {
            "chunks": np.ascontiguousarray(stacked.reshape(-1, 1, bins, CHUNK)),
            "windows": np.array([len(windows)], np.int32),
            "tokens": np.array([tokens], np.int32),
        }
        self._request.infer({name: openvino.Tensor(value, shared_memory=True) for name, value in given.items()})
        heard: Floats = self._request.get_output_tensor(0).data
        return heard
