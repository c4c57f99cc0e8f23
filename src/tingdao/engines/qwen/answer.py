"""What Qwen3-ASR answers, as text: the language that it names, and what was said. The same for every runtime.

    [language English<asr_text>]text

With a forced language only text comes; without one the model says the tag itself, `language None` when it hears no
speech. Source of the form: the processors of transformers' `qwen3_asr` and of qwen-asr 0.0.6.
"""

from __future__ import annotations

from tingdao import languages
from tingdao.engines.base import Ask

TAG = "<asr_text>"
CODES = {name.lower(): code for code, name in languages.NAMES.items()}


def opening(language: str, prefix: str = "") -> str:
    """What is put into the model's mouth to force a language (ISO code), and how the text begins."""
    return f"language {languages.NAMES[language]}{TAG}{prefix}"


def parse(said: str, ask: Ask) -> tuple[str, str | None]:
    """(text, ISO code of the language) of a whole answer; no speech is ("", None)."""
    text, code = _split(said, ask)
    return text.strip(), code


def _split(said: str, ask: Ask) -> tuple[str, str | None]:
    if ask.language is not None:
        return ask.prefix + said.replace(TAG, ""), ask.language
    head, tag, text = said.partition(TAG)
    if not tag:
        # The budget ended inside the tag, or the model left it out and wrote text at once.
        return ("", None) if said.startswith("language") else (said, None)
    if hears_nothing(head):
        return "", None
    # Several languages come as "Chinese,English": the first is the one it began in.
    return text.replace(TAG, ""), CODES.get(_named(head).split(",")[0].strip())


def hears_nothing(head: str) -> bool:
    """Whether what stands before the tag says that there is no speech."""
    return _named(head) == "none"


def _named(head: str) -> str:
    return head.strip().lower().removeprefix("language").strip()


class AnswerReader:
    """An answer's text while it grows: gives each piece once, when it can no longer change.

    Held back are the language tag, and white space that may turn out to be the end.
    """

    def __init__(self, ask: Ask) -> None:
        self._silent = False
        # With a forced language the text begins at once, after the prefix; else after the tag.
        self._head: str | None = "" if ask.language is None else None
        self._lead = ask.prefix if ask.language is not None else ""
        self._given, self._space = "", ""

    def more(self, said: str) -> str:
        """The text that has been added, given what the answer has grown by."""
        if self._head is not None:
            self._head += said
            head, tag, said = self._head.partition(TAG)
            if not tag:
                return ""
            self._head, self._silent = None, hears_nothing(head)
        if self._silent:
            return ""
        text, self._lead = self._lead + said.replace(TAG, ""), ""
        text = self._space + text if self._given else text.lstrip()
        solid = text.rstrip()
        self._space = text[len(solid) :]
        self._given += solid
        return solid

    def rest(self, text: str) -> str:
        """What is still to be given of the final text."""
        return text.removeprefix(self._given) if text.startswith(self._given) else ""
