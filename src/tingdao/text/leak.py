"""Whether a model wrote its context instead of what was said.

Qwen3-ASR, given a list of terms and next to nothing to hear, writes the list (QwenLM/Qwen3-ASR issues 106 and 140);
Whisper does the same over silence. Asking again without the context costs little; not noticing costs a false
transcript. So the guard need not be sure, but two terms that somebody says are no leak.
"""

from __future__ import annotations

import re

from tingdao.text.words import FUNCTION_WORDS

FASTEST = 12.0
"""Chinese characters, or words, a second that nobody says: hurried speech has about 8 characters."""
WHOLE, PART = 3, 5
"""Terms in the list's order that are a leak when they are the whole text, and when they are a part of it."""
REPEATED = 4
"""Terms in a row that are a leak in any order, when there is nothing else and one of them comes back."""
PROSE = 0.8
"""The share of a context in sentences that must come back, word for word."""
SHORTEST_PROSE = 12
"""Syllables and words at least, for that."""

_PIECE = re.compile(r"[^\s,，、;；|/。.!！?？:：\"“”'‘’()（）\[\]]+")
_UNIT = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_SENTENCE = re.compile(r"[。！？!?]|\.(?:\s|$)")


def leaked(text: str, context: str, seconds: float) -> bool:
    """Whether a text repeats its context.

    context: what the model was given; each line of it is looked at alone.
    seconds: how much speech the clip holds.
    """
    said = [unit.lower() for unit in _UNIT.findall(text)]
    if not said:
        return False
    return any(_leaked(text, said, line, seconds) for line in context.splitlines() if line.strip())


def _leaked(text: str, said: list[str], line: str, seconds: float) -> bool:
    given = [unit.lower() for unit in _UNIT.findall(line)]
    words = set(given)
    from_context = sum(unit in words for unit in said)
    if from_context > PROSE * len(said) and len(said) > FASTEST * max(seconds, 0.1) and len(said) > 1:
        return True
    if _is_prose(line):
        return _longest_common(said, given) >= max(SHORTEST_PROSE, PROSE * len(given))
    terms = [piece.lower() for piece in _PIECE.findall(line)]
    heard = [piece.lower() for piece in _PIECE.findall(text)]
    # A model that leaves out the spaces between Chinese terms still writes them in order.
    if len(terms) >= WHOLE and _spelled_out("".join(heard), terms):
        return True
    run = _longest_common(heard, terms)
    if run >= (WHOLE if run == len(heard) else PART):
        return True
    return len(heard) >= REPEATED and set(heard) <= set(terms) and len(set(heard)) < len(heard)


def _is_prose(line: str) -> bool:
    """Whether a line of context is sentences rather than terms."""
    pieces = [piece.lower() for piece in _PIECE.findall(line)]
    return bool(_SENTENCE.search(line)) or sum(piece in FUNCTION_WORDS for piece in pieces) * 8 > len(pieces)


def _spelled_out(text: str, terms: list[str]) -> bool:
    """Whether a text is a stretch of the list, of `WHOLE` terms or more, the last of them perhaps cut off."""
    for first in range(len(terms)):
        if text.startswith(terms[first]):
            rest, count = text, 0
            for term in terms[first:]:
                if not rest.startswith(term):
                    break
                rest, count = rest[len(term) :], count + 1
            following = terms[first + count] if first + count < len(terms) else ""
            if count >= WHOLE and following.startswith(rest):
                return True
    return False


def _longest_common(one: list[str], other: list[str]) -> int:
    """Length of the longest run of items that both lists have."""
    best = 0
    row = [0] * (len(other) + 1)
    for item in one:
        above, row = row, [0]
        for place, match in enumerate(other):
            row.append(above[place] + 1 if item == match else 0)
        best = max(best, *row)
    return best
