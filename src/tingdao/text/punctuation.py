"""Punctuation for text that came without any, by rules or by a small model.

Some engines, and most of them in some languages, return words only. `punctuated` gives such a text what is certain:
a mark at its end, a capital at its beginning, and a comma in each pause where its words have times. A question is
known by its words, in the languages whose questions have such: 吗 at the end, "where is", 습니까. Where a punctuation
model is set and knows the language, it does all of this better (`Punctuator`). A text that has a single mark, or
only a few words, stays as it is.

Cost: rules, 0.3 ms per 1,000 characters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tingdao.languages import UNSPACED
from tingdao.text.function_words import BY_LANGUAGE, NO_WORDS
from tingdao.types import Word

if TYPE_CHECKING:
    from tingdao.engines.punctuation import PunctuationModel

COMMA_PAUSE = 0.45
"""Seconds without a word from which on a comma stands there."""
MOST_BARE_WORDS = 3
"""A text of no more words is a label or an interjection, and stays without a mark; in Chinese twice as many signs."""
CONTEXT = 40
"""Tokens on each side of a border that a model looks at."""

# A comma or full stop within a number or a name (3.14, U.S.A.) is none.
_MARKS = re.compile(r"[。．，、；：！？…,;:!?؟،؛।॥]|\.(?!\w)")
_SEPARATE = re.compile(r"[^\W_]")
_FULL_STOP = {"zh": "。", "yue": "。", "ja": "。", "hi": "।", "th": "", "my": "", "lo": "", "km": ""}
_COMMA = {"zh": "，", "yue": "，", "ja": "、", "ar": "،", "fa": "،", "th": "", "my": "", "lo": "", "km": ""}
_QUESTION_MARK = {"zh": "？", "yue": "？", "ja": "？", "ar": "؟", "fa": "؟", "el": ";"}
_ASKED_ZH = re.compile(
    r"[吗嗎]$|^(?:那|那么)?你呢$|[怎什].{0,12}呢$|(?<!知道)(?<!不管)(?<!无论)(?<!告诉我)(?<!了解)(?<!说明)(?<!明白)(?<!看看)(?<!关于)"
    r"(?:为什么|為什麼|什么时候|什麼時候|怎么样$|怎麼樣$|多少钱$|是不是|有没有|有沒有|能不能|会不会|可不可以|要不要|系唔系|係唔係)"
)
_ASKED = {
    "zh": _ASKED_ZH,
    "yue": re.compile(rf"{_ASKED_ZH.pattern}|(?:咩|呀嘛)$"),
    "ja": re.compile(r"(?:です|ます|ました|ません|でしょう)か(?:ね|な)?$"),
    "ko": re.compile(r"(?:[습입합됩갑옵봅줍립킵]니까|나요|[가까]요)$"),
    "en": re.compile(
        r"(?:who|what|where|when|why|how|which)\s(?:is|are|was|were|do|does|did|can|could|will|would|should|have|has|"
        r"much|many|long|far|often|about)\b(?!\shappened\b)"
        r"|(?:is|are|was|were|do|does|did|can|could|will|would|should|have|has)\s"
        r"(?:i|you|he|she|it|we|they|there|this|that|these|those|anyone|anybody|someone)\b",
        re.IGNORECASE,
    ),
    "de": re.compile(r"(?:warum|wieso|weshalb|woher|wohin)\s", re.IGNORECASE),
    "fr": re.compile(r"(?:est-ce qu|qu['’]est-ce qu|pourquoi est-ce qu|comment est-ce qu|où est-ce qu)", re.IGNORECASE),
    "es": re.compile(r"(?:qué|quién|quiénes|cómo|cuándo|dónde|cuánto|cuánta|cuántos|cuántas|por qué)\s", re.IGNORECASE),
}
_OWN = r"[\u3040-\u30ff\u3400-\u9fff]"
_HALF_WIDTH = re.compile(rf"(?<={_OWN})\s?([,.?!;:])(?:\s?(?={_OWN})|(?![\w.])\s?)")
_FULL_WIDTH = {",": "，", ".": "。", "?": "？", "!": "！", ";": "；", ":": "："}
_AT_END = frozenset({"zh", "yue", "ja", "ko"})
"""Languages whose questions are known by their end or middle; in the others the text must begin as one."""


def in_full_width(text: str, language: str | None) -> str:
    """Chinese and Japanese with the marks of their own script: some models write those of the Latin one there.

    Marks behind Latin letters and figures stay as they are, and so do dots that come in rows.
    """
    if language not in _FULL_STOP or _FULL_STOP[language] != "。":
        return text
    return _HALF_WIDTH.sub(lambda found: _FULL_WIDTH[found[1]], text)


def punctuated(
    text: str, language: str | None, words: Sequence[Word] | None = None, punctuator: Punctuator | None = None
) -> str:
    """The text with punctuation where it has none at all and is more than a few words; else the text.

    language: ISO 639 code, or None where it is not known; then nothing changes.
    words: the text's words with times, in seconds, where they are known; each is found in the text in order.
    """
    bare = text.strip()
    if language is None or _MARKS.search(bare) or _length(bare, language) <= MOST_BARE_WORDS:
        return text
    if punctuator is not None and language in punctuator.languages:
        return punctuator.restore(text, language)
    asked = _ASKED.get(language)
    question = asked is not None and (asked.search(bare) if language in _AT_END else asked.match(bare))
    if language not in UNSPACED:
        # Only the first letter: where a model writes no capitals, the names lack theirs, and nobody knows them.
        bare = bare[0].upper() + bare[1:]
    bare = _with_commas(bare, language, words or ())
    if question:
        return ("¿" if language == "es" else "") + bare + _QUESTION_MARK.get(language, "?")
    return bare + _FULL_STOP.get(language, ".")


def _length(text: str, language: str) -> int:
    """Words; in languages without spaces two letters count as one."""
    return len(_SEPARATE.findall(text)) // 2 if language in UNSPACED else len(text.split())


def _with_commas(text: str, language: str, words: Sequence[Word]) -> str:
    comma, little = _COMMA.get(language, ","), BY_LANGUAGE.get(language, NO_WORDS)
    pieces, at, behind = [], 0, 0
    for before, after in pairwise(words):
        found = text.lower().find(before.text.lower(), behind)
        if found < 0:
            continue
        behind = found + len(before.text)
        word = before.text.lower()
        if after.start - before.end < COMMA_PAUSE or word in little.open or word in little.leaning:
            continue
        if behind < len(text):
            pieces += [text[at:behind], comma]
            at = behind
    return "".join((*pieces, text[at:]))


@dataclass(frozen=True, slots=True)
class Token:
    """A word of a text as CT-Transformer counts them: what stands between spaces, or one character beyond ASCII.

    start, end: characters of the text.
    """

    text: str
    start: int
    end: int


_TOKEN = re.compile(r"[\x21-\x7e]+|[^\x00-\x7f\s]")
_TRAILING_SPACE = re.compile(r"(?<=[，。？！、])[ \t]+")


class Punctuator:
    """A punctuation model's view of texts. Thread-safe. Its calls compute: hand long texts to a thread."""

    languages = frozenset({"zh", "yue"})
    """What CT-Transformer was trained for: Chinese, with English words in it."""

    def __init__(self, model: PunctuationModel) -> None:
        self._model = model

    def restore(self, text: str, language: str) -> str:
        """The text with the model's marks, a full stop or question mark at its end, where it has none at all.

        A text in another language than the model's stays as it is.
        """
        tokens = _tokens(text)
        if language not in self.languages or not tokens or _MARKS.search(text):
            return text
        marks = self._model.marks([token.text for token in tokens])
        if marks[-1] not in {"。", "？", "！"}:
            marks[-1] = "。"
        pieces, at = [], 0
        for token, mark in zip(tokens, marks, strict=True):
            within = re.match(r"[^\W\d_]", text[token.end : token.end + 1]) and not _is_chinese(text[token.end - 1])
            if mark and not (within and not _is_chinese(text[token.end])):
                pieces += [text[at : token.end], mark]
                at = token.end
        return _TRAILING_SPACE.sub("", "".join((*pieces, text[at:]))).strip()

    def mark_between(self, before: str, after: str) -> str:
        """The mark that stands between two texts that follow each other, "" for none; whatever marks they have."""
        left, right = (_tokens(_MARKS.sub(" ", text)) for text in (before, after))
        if not left or not right:
            return "。" if left else ""
        left, right = left[-CONTEXT:], right[:CONTEXT]
        return self._model.marks_in_view([token.text for token in left + right])[len(left) - 1]


def _tokens(text: str) -> list[Token]:
    return [Token(found.group(), *found.span()) for found in _TOKEN.finditer(text)]


def _is_chinese(character: str) -> bool:
    return "\u3400" <= character <= "\u9fff"
