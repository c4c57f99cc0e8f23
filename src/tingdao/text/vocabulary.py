"""Terms that the caller expects: into the model's context before, and written in place of what was misheard after.

    terms ─ Vocabulary ─┬─ context: the heaviest terms ─► the engine
                        └─ corrected: Segment ─► Segment, with a `Correction` for every term that was written

Corrections go by sound and work with every engine: Chinese by pinyin (`hear_chinese`), Latin letters by spelling and
English sound (`hear_latin`). A wrong correction is worse than a missed one: what sounds the same is replaced unless it
is a common word itself, what sounds near only where the text makes no sense as it stands. A caller who wants a common
word replaced all the same writes it out in `sounds_like`. Text that is right stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tingdao.languages import UNSPACED
from tingdao.text.hear_chinese import ChineseTerms
from tingdao.text.hear_latin import LatinTerms
from tingdao.text.match import chosen
from tingdao.text.rewrite import Edit, rewritten
from tingdao.text.units import runs
from tingdao.types import Correction, Segment, Term

CONTEXT_TERMS = 20
"""Terms in the model's context, at most: with more, Qwen3-ASR begins to write them where nobody said them."""
PINYIN_LANGUAGES = frozenset({None, "zh"})
"""Languages whose Chinese characters sound as pinyin says. None is an unknown language."""
ENGLISH_SOUNDS = frozenset({None, "en", "ko"}) | UNSPACED
"""Languages in whose text a word in Latin letters is likely to be English."""


@dataclass(frozen=True, slots=True)
class Found:
    """A term that was heard as something else. exact: whether both sound the same; else they are only near."""

    edit: Edit
    heard: str
    exact: bool


class Vocabulary:
    """Terms compiled once for many segments; thread-safe.

    fuzzy: whether sounds that some accents do not tell apart (zh/z, ch/c, sh/s, n/l, f/h, r/l, in/ing, en/eng,
        an/ang) may differ in any number of syllables. Such matches are near, with all that goes for near ones.
    chosen: the terms in the model's context, the heaviest first, then in the caller's order.
    context: the text of that context, words with spaces between: the form of Qwen3-ASR's own examples.
    """

    def __init__(self, terms: Sequence[Term], *, fuzzy: bool = False) -> None:
        self.terms = tuple(terms)
        self.chosen = tuple(sorted(self.terms, key=lambda term: -term.weight)[:CONTEXT_TERMS])
        self.context = " ".join(term.word for term in self.chosen)
        self._chinese = ChineseTerms(self.terms, fuzzy=fuzzy)
        self._latin = LatinTerms(self.terms)

    def corrections(self, text: str, language: str | None) -> list[Found]:
        """What is to be written otherwise, in order and not overlapping.

        language: ISO code of what is spoken, or None when it is not known.
        """
        if not self.terms:
            return []
        units = runs(text)
        heard = [
            *self._chinese.matches(text, units, sounds=language in PINYIN_LANGUAGES),
            *self._latin.matches(text, units, sounds=language in ENGLISH_SOUNDS),
        ]
        return [
            Found(Edit(match.start, match.end, match.word), text[match.start : match.end], match.exact)
            for match in chosen(heard)
        ]


def corrected(segment: Segment, vocabulary: Vocabulary) -> Segment:
    """A segment with its terms as the caller writes them, its words in step, and every correction listed."""
    found = vocabulary.corrections(segment.text, segment.language)
    if not found:
        return segment
    corrections, moved = [], 0
    for one in found:
        corrections.append(Correction(one.heard, one.edit.new, one.edit.start + moved, one.exact))
        moved += len(one.edit.new) - (one.edit.end - one.edit.start)
    after = rewritten(segment, [one.edit for one in found])
    every = sorted((*after.corrections, *corrections), key=lambda correction: correction.at)
    return replace(after, corrections=tuple(every))
