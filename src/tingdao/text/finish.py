"""What happens to recognised text on its way out, in this order.

    segments of a clip ─ punctuation where there is none ─ terms by sound ─ sentences joined across the clip's border
                       ─ numbers ─ script ─► finished

Each step says what it changes as edits, so words and corrections stay in step (`text.rewrite`). Every engine's
text goes through here, whatever the engine can do itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar, TypeVarTuple

from tingdao.cores import on_core
from tingdao.errors import BadRequest, SetupError, UnsupportedOption
from tingdao.settings import TermSettings, TextSettings, VocabularySettings
from tingdao.text.joins import Pauses, joined, settled
from tingdao.text.numbers import Numbers
from tingdao.text.punctuation import Punctuator, in_full_width, punctuated
from tingdao.text.rewrite import edits_between, rewritten
from tingdao.text.script import check_installed, in_script
from tingdao.text.vocabulary import Vocabulary, corrected
from tingdao.types import Opening, Options, Script, Segment, Term

Given = TypeVarTuple("Given")
Made = TypeVar("Made")


async def worked(work: Callable[[*Given], Made], *args: *Given, light: bool) -> Made:
    """What comes of work: at once where it is light, else on a thread, which takes longer to begin than light work."""
    return work(*args) if light else await on_core(work, *args)


@dataclass(slots=True)
class Finisher:
    """Finishes the segments of one recording, clip by clip.

    The last segment of a clip is held back until the next clip is there: only then it is known whether its sentence
    goes on. `clip` and `rest` compute, for milliseconds, or longer with a punctuation model.
    light: whether they take microseconds, as `Finishing.light`.
    """

    vocabulary: Vocabulary
    punctuator: Punctuator | None
    numbers: Numbers | None
    script: Script | None
    light: bool = False
    _held: Segment | None = field(default=None, init=False)

    def clip(self, segments: list[Segment]) -> list[Segment]:
        """Take the segments of the next clip; the segments that are finished now, in order."""
        if not segments:
            return []
        segments = [corrected(self._punctuated(segment), self.vocabulary) for segment in segments]
        if self._held is not None:
            segments[:1] = self._joined(self._held, segments[0])
        *ready, self._held = segments
        return [self._written(segment) for segment in ready]

    def opening(self) -> Opening | None:
        """What the text of the segment that is held back begins with, whatever follows, as far as that is known."""
        if self._held is None or self.numbers is not None:  # a number is written when it is whole
            return None
        stem = self._written(replace(self._held, text=settled(self._held.text))).text
        return Opening(stem, self._held.language) if stem else None

    def rest(self, silence: float = Pauses.CUT) -> list[Segment]:
        """The segment that is held back, if there is one and its sentence is over.

        silence: seconds known to follow it; by default enough to end any sentence.
        """
        if self._held is None or silence < Pauses.CUT:
            return []
        held, self._held = self._held, None
        return [self._written(held)]

    def _punctuated(self, segment: Segment) -> Segment:
        text = in_full_width(segment.text, segment.language)
        text = punctuated(text, segment.language, segment.words, self.punctuator)
        return rewritten(segment, edits_between(segment.text, text))

    def _joined(self, before: Segment, after: Segment) -> list[Segment]:
        language = before.language if before.language == after.language else None
        mark = None
        if self.punctuator is not None and language in self.punctuator.languages:
            mark = self.punctuator.mark_between(before.text, after.text)
        ends, begins = joined(before.text, after.text, language, after.start - before.end, mark)
        return [rewritten(before, ends), rewritten(after, begins)]

    def _written(self, segment: Segment) -> Segment:
        """The segment in the figures and the script that were asked for."""
        text = segment.text
        if self.numbers is not None:
            text = self.numbers.written(text, segment.language)
        if self.script is not None:
            text = in_script(text, self.script, segment.language)
        return rewritten(segment, edits_between(segment.text, text))


class Finishing:
    """How the text of every recording is finished; one per service. Thread-safe.

    Raises SetupError for options that cannot be carried out here.
    """

    def __init__(
        self, text: TextSettings, vocabulary: VocabularySettings, punctuator: Punctuator | None = None
    ) -> None:
        self._text = text
        self._punctuator = punctuator
        self._numbers: Numbers | None = None
        self.expect(vocabulary)
        try:
            self.finisher(Options(), Vocabulary(()))
        except UnsupportedOption as error:
            raise SetupError(f"`[text] {error.param}` is set, but: {error.message}") from None

    def expect(self, vocabulary: VocabularySettings) -> None:
        """Expect these words from now on."""
        self._fuzzy = vocabulary.fuzzy
        self._always = vocabulary.always
        self._lists = {name: tuple(map(_term, entries)) for name, entries in vocabulary.lists.items()}

    def vocabulary(self, options: Options) -> Vocabulary:
        """The terms expected in a recording; computes for milliseconds when there are many. Raises BadRequest."""
        return Vocabulary(self._terms(options), fuzzy=self._fuzzy)

    def finisher(self, options: Options, vocabulary: Vocabulary) -> Finisher:
        """A fresh one for one recording; the first that writes numbers takes a moment. Raises UnsupportedOption."""
        script = options.script or self._text.script
        if script is not None:
            check_installed()
        numbers = self._text.numbers if options.numbers is None else options.numbers
        if numbers and self._numbers is None:
            self._numbers = Numbers()
        writer = self._numbers if numbers else None
        return Finisher(vocabulary, self._punctuator, writer, script, light=self.light(options))

    def light(self, options: Options) -> bool:
        """Whether all that is done here for these options takes microseconds: nothing but sentences are joined."""
        numbers = self._text.numbers if options.numbers is None else options.numbers
        expected = options.terms or options.vocabularies or self._always
        return not (expected or numbers or options.script or self._text.script or self._punctuator)

    def _terms(self, options: Options) -> tuple[Term, ...]:
        """The request's own terms first, then those of the lists; each word once."""
        terms = {term.word: term for term in options.terms}
        for name in (*options.vocabularies, *self._always):
            if name not in self._lists:
                known = ", ".join(sorted(self._lists)) or "none"
                raise BadRequest(f"There is no word list {name[:80]!r} here. Lists: {known}.", param="vocabularies[]")
            for term in self._lists[name]:
                terms.setdefault(term.word, term)
        return tuple(terms.values())


def _term(entry: str | TermSettings) -> Term:
    return Term(entry) if isinstance(entry, str) else Term(entry.word, tuple(entry.sounds_like), entry.weight)
