"""Text → the units that the forced aligner times, each with its place in the text. Needs no torch.

    "Well — 我有 iPhone，ill-disposed."  →  Well · 我 · 有 · iPhone · illdisposed, shown as "ill-disposed"

Chinese characters are units of their own in every language but Japanese, where nagisa finds the words, and Korean,
where white space parts them; all else is parted by white space. A unit is spoken as its letters, digits and straight
apostrophes, which is all that the model was trained to see; it is shown as the text has it, from the first of these
to the last.

Source: `split_words_for_alignment` of transformers' `qwen3_asr` and `encode_timestamp` of qwen-asr 0.0.6, which agree
but for Korean: there transformers' tokenizer has no scores and so parts at white space only, and qwen-asr cuts
particles off by a word list. One difference is meant: those join what stands on both sides of "，", "。" or "—" where
no space follows ("iPhone，Android" → "iPhoneAndroid"), and a word would then reach over the end of a sentence.
"""

from __future__ import annotations

import importlib.util
import re
import threading
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from tingdao import languages
from tingdao.errors import UnsupportedOption

LANGUAGES = frozenset({"zh", "yue", "en", "fr", "de", "it", "ja", "ko", "pt", "ru", "es"})
"""ISO 639 codes that Qwen3-ForcedAligner was trained for."""

_IDEOGRAPHS = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\U0002f800-\U0002fa1f"
)
# Marks that stand between words without a space: ellipsis, dash, quotation marks, and those as wide as a character.
_BREAKS = r"\s…—“”\u3001-\u3003\u3008-\u3020\u3030\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_RUN = re.compile(rf"[^{_BREAKS}]+")
_CHARACTER_OR_RUN = re.compile(rf"[{_IDEOGRAPHS}]|[^{_BREAKS}{_IDEOGRAPHS}]+")
# The tagger's arithmetic is not known to be safe on two threads at once.
_nagisa = threading.Lock()


@dataclass(frozen=True, slots=True)
class Unit:
    """What gets one start and one end.

    spoken: letters, digits and apostrophes, as the model takes it.
    begin, end: the text shows it as text[begin:end], without the punctuation around it.
    """

    spoken: str
    begin: int
    end: int


def require(language: str) -> None:
    """Make sure that words of a language can be timed here. Raises UnsupportedOption that says what to do."""
    if language not in LANGUAGES:
        raise UnsupportedOption(
            f"Word times are not known for {languages.NAMES.get(language, language)!r}. Leave them out, or use one of: "
            f"{', '.join(sorted(LANGUAGES))}.",
            param="words",
        )
    if language == "ja" and importlib.util.find_spec("nagisa") is None:
        raise UnsupportedOption(
            "Word times for Japanese need the package nagisa, which is not installed on this service. Leave them out, "
            "or ask its operator to run: pip install 'tingdao[japanese]'",
            param="words",
        )


def split(text: str, language: str) -> list[Unit]:
    """The units of a text in order; none when nothing in it is spoken. Raises UnsupportedOption as `require`."""
    require(language)
    if language == "ja":
        spans = _japanese(text)
    else:
        pattern = _RUN if language == "ko" else _CHARACTER_OR_RUN
        spans = ((match.group(), match.start(), match.end()) for match in pattern.finditer(text))
    units: list[Unit] = []
    for spoken, begin, end in spans:
        unit = _unit(text, spoken, begin, end)
        if unit and units and unit.begin < units[-1].end:  # one character that spells two words, such as ½
            unit = Unit(units[-1].spoken + unit.spoken, units.pop().begin, unit.end)
        if unit:
            units.append(unit)
    return units


def _unit(text: str, spoken: str, begin: int, end: int) -> Unit | None:
    heard = "".join(filter(_is_heard, spoken))
    if not heard:
        return None
    # An accent may be a character of its own: it is not spoken to the model, but shown.
    shown = [place for place in range(begin, end) if _is_heard(text[place]) or unicodedata.combining(text[place])]
    return Unit(heard, shown[0], shown[-1] + 1) if shown else Unit(heard, begin, end)


def _is_heard(character: str) -> bool:
    return character == "'" or unicodedata.category(character)[0] in "LN"


def _japanese(text: str) -> Iterator[tuple[str, int, int]]:
    """Words by nagisa with their places. It normalises a text (NFKC), so the places are found again by clusters."""
    import nagisa

    plain, places = "", []
    for begin, end in _clusters(text):
        cluster = unicodedata.normalize("NFKC", text[begin:end])
        plain += cluster
        places += [(begin, end)] * len(cluster)
    with _nagisa:
        words = nagisa.wakati(plain)
    cursor = 0
    for word in words:
        # Character for character the same as it was given, though a space may come back as a wide one.
        if met := places[cursor : cursor + len(word)]:
            yield word, met[0][0], met[-1][1]
        cursor += len(word)


def _clusters(text: str) -> Iterator[tuple[int, int]]:
    """Pieces of a text that are normalised each on its own: a character with what melts into it."""
    begin = 0
    for place in range(1, len(text) + 1):
        if place == len(text) or not _melts(text[begin:place], text[place]):
            yield begin, place
            begin = place


def _melts(before: str, character: str) -> bool:
    if unicodedata.combining(character):
        return True
    together = unicodedata.normalize("NFKC", before + character)
    return together != unicodedata.normalize("NFKC", before) + unicodedata.normalize("NFKC", character)
