"""The tokenizer of Qwen3-ASR from a model folder, without PyTorch or transformers.

The native layout stores it whole. The original layout has its parts only: vocabulary, merges, and the added tokens with
their ids; put together, they are the byte-level BPE of Qwen2.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tingdao.engines.qwen.weights import AGAIN, read_json
from tingdao.errors import SetupError

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Qwen2 cuts text before it looks for pairs to merge; part of what the vocabulary was made with."""


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer as stored, or put together from its parts. Raises SetupError."""
    try:
        if (folder / "tokenizer.json").is_file():
            return Tokenizer.from_file(str(folder / "tokenizer.json"))
        return _assembled(folder)
    except Exception as error:
        # The library raises bare Exception for whatever is wrong with a file.
        raise SetupError(f"The tokenizer in {folder} cannot be read ({error}). {AGAIN}") from error


def _assembled(folder: Path) -> Tokenizer:
    made = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    added = read_json(folder / "tokenizer_config.json")["added_tokens_decoder"]
    for number, token in sorted(added.items(), key=lambda item: int(item[0])):
        marks = {name: value for name, value in token.items() if name not in ("content", "special")}
        add = made.add_special_tokens if token["special"] else made.add_tokens
        add([AddedToken(token["content"], **marks)])
        if made.token_to_id(token["content"]) != int(number):
            raise ValueError(f"{token['content']} would not get its id {number}")
    return made
