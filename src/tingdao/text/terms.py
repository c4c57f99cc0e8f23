r"""Terms as clients write them, in every dialect.

    custom_vocabulary_word   [{"word": "不二家", "sounds_like": ["bu er jia"], "weight": 2}]    chat
    keywords[]               Kubernetes, 不二家                                                  OpenAI
    hotwords                 "阿里巴巴 20\n达摩院 30", "甲,乙", '["甲", "乙"]', '{"甲": 20}'       FunASR, vLLM
    prompt                   "Glossary: Kubernetes, Istio", "热词：甲、乙"                          OpenAI

What is malformed, too long or too much is a BadRequest that names the field.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tingdao.errors import BadRequest
from tingdao.text.words import FUNCTION_CHARACTERS, FUNCTION_WORDS, chinese
from tingdao.types import Term

MOST_TERMS = 1_000
LONGEST_WORD = 64
MOST_SOUNDS = 16
LONGEST_SOUND = 100
"""Limits of one request: terms, characters of a word, `sounds_like` of a term, characters of each."""
PROMPT_CHARACTERS, PROMPT_WORDS, LONGEST_PLAIN = 40, 3, 4
"""Characters and words of the longest item of a prompt that is a list of terms without saying so; characters of
Chinese that are a term whatever they are."""

_SEPARATORS = re.compile(r"[,，、;；\n\r|]+")
_SPACED_WEIGHT = re.compile(r"(?P<word>.*\S)\s+(?P<weight>-?\d+(?:\.\d+)?)")
_SPACED = re.compile(r"\S+(?:\s+-?\d+(?:\.\d+)?(?!\S))?")
_SAYS_LIST = re.compile(
    r"\s*(?:glossary|vocabulary|key\s?words?|hot\s?words?|terms|names|热词|熱詞|关键词|關鍵詞|术语|術語|词汇|词表|专有名词)"
    r"(?:表|列表)?\s*[:：]\s*(?P<list>.+)",
    re.IGNORECASE | re.DOTALL,
)
_SENTENCE = re.compile(r"[.!?](?:\s|$)|[。！？]")


def from_vocabulary(value: object, field: str = "custom_vocabulary_word") -> tuple[Term, ...]:
    """Terms from a list of objects {word, sounds_like, weight}; strings are words. Raises BadRequest."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise _wrong(field, 'must be a list of objects such as {"word": "不二家", "sounds_like": ["bu er jia"]}')
    return _checked((_from_object(item, f"{field}[{number}]") for number, item in enumerate(value)), field)


def from_keywords(values: Iterable[str], field: str = "keywords") -> tuple[Term, ...]:
    """Terms from words, one to an item. Raises BadRequest."""
    return _checked((Term(value.strip()) for value in values), field)


def from_hotwords(text: str, field: str = "hotwords") -> tuple[Term, ...]:
    """Terms from one string. Raises BadRequest.

    JSON (a list as `from_vocabulary` takes it, or an object of words and weights), or terms between commas, 、, |, ;
    or line breaks, each with a weight after a space where there is one. Without any of these marks spaces part them.
    """
    text = text.strip()
    if text[:1] in ("[", "{"):
        try:
            value = json.loads(text)
        except ValueError:
            raise _wrong(field, "begins like JSON and is none") from None
        if isinstance(value, Mapping):
            value = [{"word": word, "weight": weight} for word, weight in value.items()]
        return from_vocabulary(value, field)
    items = [item.strip() for item in _SEPARATORS.split(text) if item.strip()]
    if len(items) == 1:
        items = [item.strip() for item in _SPACED.findall(items[0])]
    return _checked((_weighed(item, field) for item in items), field)


def from_prompt(text: str) -> tuple[Term, ...]:
    """Terms from a prompt that plainly is a list of terms; none from any other.

    That is: it says so ("Glossary: A, B"), or it is two short items or more between commas, without a sentence.
    """
    says = _SAYS_LIST.fullmatch(text)
    items = [item.strip(" .。\t") for item in _SEPARATORS.split(says["list"] if says else text)]
    items = list(dict.fromkeys(item for item in items if item))
    plain = (
        len(items) > 1
        and not _SENTENCE.search(text.strip().rstrip(".。"))
        and all(len(item) <= PROMPT_CHARACTERS and len(item.split()) <= PROMPT_WORDS for item in items)
        and not any(_prose(item) for item in items)
    )
    if not (says or plain) or len(items) > MOST_TERMS:
        return ()
    return tuple(Term(item) for item in items if len(item) <= LONGEST_WORD)


def context_or_terms(text: str) -> tuple[str, tuple[Term, ...]]:
    """What a client's prompt is to the model: context, or terms when it plainly is a list of them; never both."""
    listed = from_prompt(text)
    return ("", listed) if listed else (text, ())


def merged(*groups: Iterable[Term], field: str = "terms") -> tuple[Term, ...]:
    """Terms from several places, each word once, with all its sounds and its greatest weight. Raises BadRequest."""
    terms: dict[str, Term] = {}
    for group in groups:
        for term in group:
            known = terms.get(term.word, term)
            sounds = tuple(dict.fromkeys((*known.sounds_like, *term.sounds_like)))[:MOST_SOUNDS]
            terms[term.word] = replace(known, sounds_like=sounds, weight=max(known.weight, term.weight))
    if len(terms) > MOST_TERMS:
        raise _wrong(field, f"has {len(terms)} terms; at most {MOST_TERMS} are taken")
    return tuple(terms.values())


def _from_object(item: object, field: str) -> Term:
    if isinstance(item, str):
        return Term(item.strip())
    if not isinstance(item, Mapping):
        raise _wrong(field, "must be an object with a word")
    if unknown := set(item) - {"word", "sounds_like", "weight"}:
        raise _wrong(
            field, f"has an unknown member {str(min(unknown, key=str))[:40]!r}; known: word, sounds_like, weight"
        )
    word = item.get("word")
    if not isinstance(word, str):
        raise _wrong(f"{field}.word", "must be a string")
    return Term(
        word.strip(),
        _sounds(item.get("sounds_like"), f"{field}.sounds_like"),
        _weight(item.get("weight"), f"{field}.weight"),
    )


def _sounds(value: object, field: str) -> tuple[str, ...]:
    sounds = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(sounds, list | tuple) or not all(isinstance(sound, str) for sound in sounds):
        raise _wrong(field, "must be a list of strings")
    if len(sounds) > MOST_SOUNDS or any(len(sound) > LONGEST_SOUND for sound in sounds):
        raise _wrong(field, f"takes at most {MOST_SOUNDS} spellings of {LONGEST_SOUND} characters each")
    return tuple(sound.strip() for sound in sounds if sound.strip())


def _weight(value: object, field: str) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(field, "must be a number")
    return float(value)


def _weighed(item: str, field: str) -> Term:
    match = _SPACED_WEIGHT.fullmatch(item)
    return _from_object({"word": match["word"], "weight": float(match["weight"])} if match else item, field)


def _checked(terms: Iterable[Term], field: str) -> tuple[Term, ...]:
    found: list[Term] = []
    for number, term in enumerate(terms):
        if number >= MOST_TERMS:
            raise _wrong(field, f"takes at most {MOST_TERMS} terms")
        if not term.word:
            raise _wrong(f"{field}[{number}]", "is empty")
        if len(term.word) > LONGEST_WORD:
            raise _wrong(f"{field}[{number}]", f"is longer than {LONGEST_WORD} characters: a term is a word or a name")
        if not any(character.isalnum() for character in term.word):
            raise _wrong(f"{field}[{number}]", "has neither a letter nor a digit")
        found.append(term)
    return merged(found, field=field)


def _prose(item: str) -> bool:
    """Whether an item of a list reads as a clause."""
    words = item.split()
    if item.isascii():
        return not FUNCTION_WORDS.isdisjoint(words) or (len(words) > 1 and item.islower())
    parts = {item[start:end] for start, end in chinese().parts(item)}
    return len(item) > LONGEST_PLAIN and not FUNCTION_CHARACTERS.isdisjoint(parts)


def _wrong(field: str, what: str) -> BadRequest:
    return BadRequest(f"{field!r} {what}.", param=field)
