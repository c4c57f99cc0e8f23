"""Two texts that were recognised apart → what to change at their border, so that a cut sentence is one again.

A recording is cut into clips, and each is recognised alone: the model ends each clip's text with a full stop and
begins the next with a capital, though the speaker was in mid-sentence. `joined` undoes that where the words, or the
lack of any pause, leave little doubt, and otherwise leaves the border as it is. Question and exclamation marks stay
always, for the model heard them; so do texts that end in a quotation mark or bracket, and abbreviations.

The sentence goes on, for a pause shorter than the seconds given (`Pauses`),
- behind a word that ends no sentence: the, and, zum, et, 因为, を (`CUT`); behind one that seldom does: of, der,
  我们的 (`BRIEF`)
- before a word that begins none: than, 的时候, を, or one without a capital in a text that has capitals (`CUT`)
- behind a comma (`CUT`), or with no mark at all (`NEW_SENTENCE`)
- with an ellipsis on both sides, or before a word without a capital (`CUT`)
- where the recording was cut without any pause (`NONE`); where there are capitals, only before a word without one or
  a word that far more often stands within a sentence: in, which, was.
Then a full stop or ellipsis there goes away, and the next word loses its capital if that word is one of the
language's little words (`text.function_words`), or stands without a capital elsewhere in the two texts. Names,
I, acronyms and German nouns never do.

In Chinese, a full stop between the halves of one thought (因为…。所以…; …的时候。…) becomes a comma (`CUT`).

A full stop is added where a text has no mark, a pause of `NEW_SENTENCE` or more follows, and the next text begins
as a sentence. What is joined already stays as it is. Cost: some 15 µs a border.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tingdao.languages import UNSPACED
from tingdao.text.function_words import BY_LANGUAGE, NO_WORDS, FunctionWords
from tingdao.text.rewrite import Edit


class Pauses:
    """How long the silence at the border may be, in seconds."""

    NONE: Final = 0.1
    """Below: there was no pause, and the cut fell where the clip had to end."""
    BRIEF: Final = 0.5
    """Below: a breath."""
    CUT: Final = 2.0
    """Below: a pause within a sentence, as one makes to think. Longer silence ends a clip anyway."""
    NEW_SENTENCE: Final = 1.0
    """From here on, a text without a mark was a sentence."""


@dataclass(frozen=True, slots=True)
class End:
    """How a text ends: `stem` without the mark `sign` ("" for none), an ellipsis being one."""

    text: str
    stem: str
    sign: str

    def changed(self, sign: str) -> Edit:
        """The edit that puts another mark there."""
        return Edit(len(self.stem), len(self.text), sign)


Edits = tuple[list[Edit], list[Edit]]
"""The edits of the text before the border, and of the text after it."""

_IDEOGRAPHIC = re.compile(r"[\u3005-\u3007\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_MARKS = frozenset(".。．,，、;；:：!！?？—-")
_ELLIPSIS = re.compile(r"^(…+|\.{2,})\s*")
_FALSE_END = frozenset("。．.")
_COMMA = frozenset(",，、")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_LAST_WORD = re.compile(r"(?<![\w.'’-])[^\W\d_]+(?:['’][^\W\d_]+)*$")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-ZА-Я]|(?:\w\.)+\w|(?i:mrs?|ms|dr|prof|st|jr|sr|vs|etc|no|vol|inc|ltd|ca|bzw|usw|nr|mme|mlle|sra?|sta?"
    r"|dott|sig))$"
)

# Chinese: words at a text's end after which the sentence goes on. Characters are guarded against words they end.
_OPEN_ZH = re.compile(
    r"(?:因为|由于|虽然|尽管|如果|假如|要是|即使|无论|但是|可是|而且|并且|不但|不仅|所以|因此|于是|或者|以及|对于|关于|比如|例如|譬如"
    r"|为了|随着|除了|只要|甚至|尤其是|特别是|也就是|也就是说|就是说|比如说|这是因为"
    r"|因為|由於|雖然|儘管|並且|不僅|於是|對於|關於|為了|隨著|但係|為咗"
    r"|(?<![总饱缓柔温平共求调谦随祥中亲總飽緩溫調謙])和|(?<![参给赠參給贈])[与與]|(?<!抑)或|(?<![棉一两几])把)$"
)
_LEANING_ZH = re.compile(
    r"(?:(?:[我你他她它][们們]|大家|自己|所有|主要|整个|整個|相关|不同|各种|各種|[这那這][样种樣種])的|[这那這][个個])$"
)
_CLAIM_ZH = re.compile(r"[是会會要有係]")
_CLINGING_ZH = re.compile(
    r"^(?:的(?![士确確])|[们們]|[吗嗎呢](?:[，。？！,.?!]|$)|之[一间間](?:[，。]|$)|而已(?:[，。]|$))"
)
_CLAUSE_ZH = re.compile(r"(?:[的嘅][时時]候|(?<![说讲說講])的[话話]|的同[时時])$")
_HALVES_ZH = [
    (re.compile(first), re.compile(f"^(?:{second})"))
    for first, second in (
        ("因为|由于|因為|由於", "所以|因此|因而|于是"),
        ("虽然|尽管|雖然|儘管", "但|可是|不过|不過|然而|却|卻|还是|還是"),
        ("如果|假如|要是|只要|万一|若是", "那么|那麼|[那我你他她它]?们?就|便"),
        ("不但|不仅|不僅|不只", "而且|还|還|也|更|甚至"),
        ("即使|就算|哪怕", "[我你他她它]?们?也"),
        ("既然", "[那我你他她它]?们?就|那么|那麼"),
    )
]
# Japanese particles and phrases, guarded against the words that end in them.
_OPEN_JA = re.compile(
    r"(?:を|(?<!こんにち)(?<!こんばん)(?<!で)は|(?<![当別こ])に|という|ための|について|による|において|そして|しかし|または|および)$"
)
_CLINGING_JA = re.compile(r"^(?:を|という|ので|のは|のが|のを)")
# Korean conjunctions, and the particle of the object.
_OPEN_KO = re.compile(r"(?:(?:^|\s)(?:그리고|하지만|그래서|그런데|왜냐하면|또는|및|만약)|\w를)$")


def joined(before: str, after: str, language: str | None, pause: float, mark: str | None = None) -> Edits:
    """The edits of the text before a border between clips, and of the text after it.

    language: ISO 639 code of both, or None where it is not known or not the same; then nothing changes.
    pause: seconds of silence between the two. Only for borders between clips: within one the model saw both sides.
    mark: what a punctuation model sets there ("" for none; see `Punctuator.mark_between`); it decides alone.
    """
    end = _end(before)
    stem = end.stem
    if language is None or not re.search(r"\w$", stem) or not after.strip():
        return [], []
    if mark is not None:
        return _as_decided(end, mark), []
    if _IDEOGRAPHIC.match(stem[-1]) or _IDEOGRAPHIC.match(after.lstrip("….")):
        rules = {"zh": _chinese, "yue": _chinese, "ja": _japanese}.get(language)
        return (rules(end, after, pause) if rules else []), []
    if language == "ko":
        return _korean(end, pause), []
    if stem[-1].lower() != stem[-1].upper() and language not in UNSPACED:
        return _cased(end, after, pause, BY_LANGUAGE.get(language, NO_WORDS))
    return [], []


def settled(text: str) -> str:
    """The part of a text that no border behind it changes: all but the mark at its end."""
    return _end(text).stem


def _end(text: str) -> End:
    whole = text.rstrip()
    stem = whole.rstrip(".…")
    if len(whole) - len(stem) < 2 and not whole.endswith("…"):
        stem = whole[:-1] if whole[-1:] in _MARKS else whole
    return End(text, stem, whole[len(stem) :])


def _as_decided(end: End, mark: str) -> list[Edit]:
    """What a punctuation model wants at the border; it knows nothing of exclamation marks and the like."""
    sign = end.sign
    known = not sign or sign in _FALSE_END or sign in _COMMA
    return [end.changed(mark)] if known and sign != mark else []


def _chinese(end: End, after: str, pause: float) -> list[Edit]:
    stem, sign = end.stem, end.sign
    sentence = re.split(r"[。！？!?]", stem)[-1]
    goes_on = bool(_OPEN_ZH.search(sentence) or _CLINGING_ZH.search(after))
    claims = _CLAIM_ZH.search(sentence[-12:])  # 这是我们的。 这是他来的时候。
    if _ends_falsely(sign) and pause < Pauses.CUT:
        if goes_on or pause < Pauses.NONE:
            return [end.changed("")]
        if _LEANING_ZH.search(sentence) and not claims and pause < Pauses.BRIEF:
            return [end.changed("")]
        halves = any(
            first.search(sentence) and second.search(after) and not second.search(_last_clause(sentence))
            for first, second in _HALVES_ZH
        )
        if sign in _FALSE_END and (halves or (_CLAUSE_ZH.search(sentence) and not claims)):
            return [end.changed("，")]
    return _completed(end, pause, "。", goes_on=goes_on, long=len(sentence) > 4)


def _last_clause(sentence: str) -> str:
    return re.split(r"[，,、；]", sentence)[-1]


def _japanese(end: End, after: str, pause: float) -> list[Edit]:
    stem, sign = end.stem, end.sign
    goes_on = bool(_OPEN_JA.search(stem) or _CLINGING_JA.search(after))
    if _ends_falsely(sign) and ((goes_on and pause < Pauses.CUT) or pause < Pauses.NONE):
        return [end.changed("")]
    return _completed(end, pause, "。", goes_on=goes_on, long=len(stem) > 4)


def _korean(end: End, pause: float) -> list[Edit]:
    stem, sign = end.stem, end.sign
    goes_on = bool(_OPEN_KO.search(stem))
    if _ends_falsely(sign) and ((goes_on and pause < Pauses.CUT) or pause < Pauses.NONE):
        return [end.changed("")]
    return _completed(end, pause, ".", goes_on=goes_on, long=len(stem.split()) > 2)


def _cased(end: End, after: str, pause: float, words: FunctionWords) -> Edits:
    """Scripts with capitals: Latin, Cyrillic, Greek."""
    stem, sign = end.stem, end.sign
    dots = _ELLIPSIS.match(after)
    first, last = _WORD.match(after, dots.end() if dots else 0), _LAST_WORD.search(stem)
    if first is None or (sign in _FALSE_END and _ABBREVIATION.search(stem)):
        return [], []
    word = first.group()
    little = _has_false_capital(word, f"{end.text} {after}", words)
    small = word.islower() and any(character.isupper() for character in f"{end.text}{after}")
    behind = last.group().lower() if last and not _is_name(last) else ""
    open_ended = behind in words.open or small or _clings(first, words)
    stopped = _ends_falsely(sign)
    goes_on = (
        (open_ended and pause < Pauses.CUT)
        or (behind in words.leaning and pause < Pauses.BRIEF)
        or ((word.islower() or (little and word.lower() in words.inner)) and pause < Pauses.NONE)
        or (dots and stopped and sign not in _FALSE_END and pause < Pauses.CUT)
    )
    if stopped and goes_on:
        return [end.changed("")], _begun(after, first, lower=little)
    if (sign in _COMMA and pause < Pauses.CUT) or (not sign and (goes_on or pause < Pauses.NEW_SENTENCE)):
        return [], _begun(after, first, lower=little)
    unfinished = open_ended or behind in words.leaning or not word[0].isupper()
    return _completed(end, pause, ".", goes_on=unfinished, long=len(stem.split()) > 2), []


def _has_false_capital(word: str, texts: str, words: FunctionWords) -> bool:
    """Whether a word has a capital and is no name: by the list, or because it stands without one elsewhere."""
    if not word[0].isupper() or not (len(word) == 1 or word[1:].islower()) or re.match(r"I(?:['’]|$)", word):
        return False
    if words.lowers(word.lower()):
        return True
    if words is BY_LANGUAGE["de"] or len(word) < 3:  # German: essen and Essen are two words
        return False
    return re.search(rf"(?<![\w'’-]){re.escape(word.lower())}(?![\w'’-])", texts) is not None


def _clings(first: re.Match[str], words: FunctionWords) -> bool:
    return first.group().lower() in words.clinging and not re.match(r"\s+course\b", first.string[first.end() :])


def _is_name(word: re.Match[str]) -> bool:
    """Whether a word has a capital though it begins no sentence, as the A in "vitamin A"."""
    return word.group()[0].isupper() and bool(re.search(r"[\w,;:]\s+$", word.string[: word.start()]))


def _ends_falsely(sign: str) -> bool:
    """Whether a mark is one that models set for want of the next words: a full stop or an ellipsis."""
    return bool(sign) and (sign in _FALSE_END or not sign.strip(".…"))


def _begun(after: str, first: re.Match[str], *, lower: bool) -> list[Edit]:
    """A text that goes on with a sentence: without leading dots, and without the capital where that is safe."""
    edits = [Edit(0, first.start(), "")] if first.start() else []
    if lower:
        edits.append(Edit(first.start(), first.start() + 1, after[first.start()].lower()))
    return edits


def _completed(end: End, pause: float, stop: str, *, goes_on: bool, long: bool) -> list[Edit]:
    """A full stop for a text that has no mark before a long pause and is more than an interjection."""
    if end.sign or goes_on or not long or pause < Pauses.NEW_SENTENCE:
        return []
    return [end.changed(stop)]
