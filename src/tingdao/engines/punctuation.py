"""CT-Transformer: words without punctuation → the mark behind each, on onnxruntime.

The layout is the one that FunASR publishes, such as `iic/punc_ct-transformer_zh-cn-common-vocab272727-onnx`:

    model_quant.onnx or model.onnx   token numbers int32 (1, n), lengths int32 (1,) → scores float32 (1, n, marks)
    config.yaml or punc.yaml         model_conf.punc_list (or punc_list): the marks in order, `_` for none
    tokens.json                      the tokens in order; the last one stands for every unknown word; older
                                     releases have them in config.yaml, as token_list

Source of format and procedure: FunASR, runtime/python/onnxruntime/funasr_onnx/punc_bin.py. A text is read in windows
of 20 tokens; what stands behind the last sentence that ended is read again together with the next window, so that
every mark is set with the words after it in view.

The published model takes 290 MB of memory, nearly all of it for the vectors of its 272,727 tokens; quantised, little
less.

This module knows nothing of texts: how they become tokens, and where marks go, is `text.punctuation`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import yaml

from tingdao.errors import SetupError

MODEL_FILES = ("model_quant.onnx", "model.onnx")
CONFIG_FILES = ("config.yaml", "punc.yaml")
TOKENS_FILE = "tokens.json"
WORD_DICTIONARY = "jieba_usr_dict"

WINDOW = 20
"""Tokens that each step takes in."""
LONGEST_SENTENCE = 200
"""Tokens without an end from which on a sentence is ended at its last comma."""
NO_MARK = "_"
FULL_WIDTH = {",": "，", ".": "。", "?": "？", "!": "！"}
FULL_STOP, COMMA, ENDS = "。", "，", frozenset("。？！")


class PunctuationModel:
    """The loaded model. Thread-safe and without state; use `load`."""

    def __init__(self, session: onnxruntime.InferenceSession, tokens: Sequence[str], marks: Sequence[str]) -> None:
        self._session = session
        self._inputs = [port.name for port in session.get_inputs()]
        self._numbers = {token: number for number, token in enumerate(tokens)}
        self._unknown = len(tokens) - 1
        self._marks = marks

    @classmethod
    def load(cls, folder: Path, threads: int = 1) -> PunctuationModel:
        """Load a model folder; with both forms of the model there, the quantised one.

        Raises SetupError that says what the folder lacks.
        """
        file, (config_file, config) = _first(folder, MODEL_FILES), _config(folder)
        if (folder / WORD_DICTIONARY).exists():
            raise SetupError(
                f"The punctuation model in {folder} splits Chinese into words, which is not supported here. "
                "Use the one by characters: iic/punc_ct-transformer_zh-cn-common-vocab272727-onnx."
            )
        tokens, marks = _tokens(folder / TOKENS_FILE, config), _marks(config_file, config)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise SetupError(f"{file} cannot be loaded as an ONNX model: {str(error)[:200]}") from error
        if len(session.get_inputs()) != 2:
            names = ", ".join(port.name for port in session.get_inputs())
            raise SetupError(
                f"{file} takes the inputs {names}; a CT-Transformer for whole texts takes tokens and their number. "
                "The models for live use (vad_realtime) are not supported."
            )
        model = cls(session, tokens, marks)
        model._try(file)  # rather now than at the first request
        return model

    def marks(self, tokens: Sequence[str]) -> list[str]:
        """The mark behind each token, "" for none; of a text of any length."""
        marks: list[str] = []
        start, end = 0, min(WINDOW, len(tokens))
        while end < len(tokens):
            found = self.marks_in_view(tokens[start:end])
            kept = _settled(found)
            marks += found[:kept]
            start += kept
            end = min(end + WINDOW, len(tokens))
        return marks + (self.marks_in_view(tokens[start:end]) if end > start else [])

    def marks_in_view(self, tokens: Sequence[str]) -> list[str]:
        """The mark behind each of a few tokens, "" for none, read all at once. At least one token."""
        best = self._scores([self._number(token) for token in tokens]).argmax(axis=-1)[0]
        return [self._marks[number] for number in best]

    def _number(self, token: str) -> int:
        found = self._numbers.get(token)
        return self._numbers.get(token.lower(), self._unknown) if found is None else found

    def _scores(self, numbers: list[int]) -> np.ndarray[tuple[int, int, int], np.dtype[np.float32]]:
        inputs = (np.array([numbers], np.int32), np.array([len(numbers)], np.int32))
        scores: np.ndarray[tuple[int, int, int], np.dtype[np.float32]]
        scores = self._session.run(None, dict(zip(self._inputs, inputs, strict=True)))[0]
        return scores

    def _try(self, file: Path) -> None:
        try:
            shape = self._scores([0, self._unknown]).shape
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise SetupError(f"{file} does not run as a CT-Transformer: {str(error)[:200]}") from error
        if shape != (1, 2, len(self._marks)):
            raise SetupError(
                f"{file} gives scores of shape {shape} for two tokens; with the {len(self._marks)} marks of its "
                f"configuration it should be {(1, 2, len(self._marks))}."
            )


def _settled(marks: list[str]) -> int:
    """How many of the tokens read need not be read again: those up to the last sentence that ended.

    The last mark of a window does not count, for nothing was seen behind it. A sentence that comes to no end is
    ended at its last comma, or without one at the window's end.
    """
    for number in range(len(marks) - 2, 1, -1):
        if marks[number] in ENDS:
            return number + 1
    if len(marks) <= LONGEST_SENTENCE:
        return 0
    for number in range(len(marks) - 2, 1, -1):
        if marks[number] == COMMA:
            marks[number] = FULL_STOP
            return number + 1
    return len(marks) - 1


def _first(folder: Path, names: Sequence[str]) -> Path:
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise SetupError(f"The punctuation model's folder {folder} has no {' and no '.join(names)}.")
    return found


def _config(folder: Path) -> tuple[Path, dict[str, Any]]:
    file = _first(folder, CONFIG_FILES)
    try:
        with file.open(encoding="utf-8") as stream:
            # The loader in C, where there is one: an old configuration of 3 MB takes half a minute without.
            config = yaml.load(stream, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  both are safe
    except (ValueError, yaml.YAMLError) as error:
        raise SetupError(f"{file} is not YAML: {str(error)[:200]}") from error
    return file, config if isinstance(config, dict) else {}


def _tokens(file: Path, config: dict[str, Any]) -> list[str]:
    tokens = config.get("token_list")
    if file.is_file():
        try:
            tokens = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SetupError(f"{file} is not JSON: {error}") from error
    elif tokens is None:
        raise SetupError(f"The punctuation model's folder {file.parent} has no {file.name}.")
    if not isinstance(tokens, list) or len(tokens) < 2:
        raise SetupError(f"{file if file.is_file() else file.parent} does not give a list of tokens.")
    return [str(token) for token in tokens]


def _marks(file: Path, config: dict[str, Any]) -> list[str]:
    """The marks in the order of the model's scores, full-width, "" for none."""
    inner = config.get("model_conf")
    marks = (inner.get("punc_list") if isinstance(inner, dict) else None) or config.get("punc_list")
    if not isinstance(marks, list) or FULL_STOP not in marks or NO_MARK not in marks:
        raise SetupError(f"{file} has no model_conf.punc_list with at least {NO_MARK} and {FULL_STOP} in it.")
    return ["" if mark in (NO_MARK, "<unk>") else FULL_WIDTH.get(mark, mark) for mark in map(str, marks)]
