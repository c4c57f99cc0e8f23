"""Chinese in simplified or traditional characters, by OpenCC (the extra `text`).

Simplified is the mainland's standard. Traditional is Taiwan's for Mandarin and Hong Kong's for Cantonese: characters
only, no vocabulary (软件 becomes 軟件, not 軟體). Every character stays one character, so words keep their times.
Japanese is left alone: its characters are a third set.

Cost: up to 0.6 ms per 1,000 characters; the first use loads dictionaries in 0.1 s.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from tingdao.errors import UnsupportedOption
from tingdao.types import Script

if TYPE_CHECKING:
    from opencc import OpenCC

LANGUAGES = frozenset({"zh", "yue"})


def in_script(text: str, script: Script, language: str | None) -> str:
    """Chinese text in the given characters; a text in another language, or unknown, as it is.

    A text that is traditional already stays as it is when that is asked for: some characters are simplified forms
    and traditional ones of their own (后, 余, 里), and would be taken for the former.
    Raises UnsupportedOption when OpenCC is not installed.
    """
    if language not in LANGUAGES:
        return text
    if script == "simplified":
        # Taiwan's and Hong Kong's forms first (著急 → 着急), then whatever other traditional ones there are.
        return str(_converter("t2s").convert(_converter("tw2s").convert(text)))
    traditional = _converter("s2tw" if language == "zh" else "s2hk").convert(text)
    return text if _differing(text, _converter("t2s").convert(text)) > _differing(text, traditional) else traditional


def check_installed() -> None:
    """Raise UnsupportedOption when OpenCC is not installed."""
    try:
        import opencc  # noqa: F401  whether it is there
    except ImportError:
        raise UnsupportedOption(
            "This service cannot choose between simplified and traditional characters: OpenCC is not installed. "
            "Its operator types: pip install 'tingdao[text]'",
            param="script",
        ) from None


@cache
def _converter(name: str) -> OpenCC:
    check_installed()
    from opencc import OpenCC

    return OpenCC(name)


def _differing(one: str, other: str) -> int:
    return sum(a != b for a, b in zip(one, other, strict=False))
