"""Repairs of what a model wrote. Every repair leaves a flag on its segment.

Models sometimes fall into a loop and write the same phrase until something stops them. Engines stop a loop while they
decode and say so (`Recognition.ended`); the clip is then cut at a pause and its parts are recognised anew. What still
loops, and loops of engines that do not notice them, are collapsed: what is said twice or three times is speech, what
stands there `LOOP_TIMES` times in a row is a loop.
"""

from __future__ import annotations

from tingdao.audio.speech import ClipSpan
from tingdao.types import SAMPLE_RATE

LOOPED = "looped"
"""The model repeated itself; the repeats were collapsed."""
RETRIED = "retried"
"""The model repeated itself or came to no end on a longer clip; it was cut at a pause and recognised again."""
CUT_OFF = "cut_off"
"""The model came to no end within its budget; the text may go on."""
CONTEXT_LEAKED = "context_leaked"
"""The model repeated its context instead of what was said; it was asked again without."""
LANGUAGE_FORCED = "language_forced"
"""The model heard a language that was not among those expected; it was asked again in the likeliest of them."""

LOOP_TIMES = 8
LONGEST_PHRASE = 60
SHORTEST_PART = 1.0
"""Seconds of a clip that are not cut off as a part of their own."""


def split(span: ClipSpan) -> tuple[ClipSpan, ClipSpan] | None:
    """A clip in two parts, cut in the middle of its longest pause; None when there is none to cut at."""
    pauses = [
        (after.start - before.end, (before.end + after.start) // 2, number)
        for number, (before, after) in enumerate(zip(span.speech, span.speech[1:], strict=False), 1)
    ]
    shortest = round(SHORTEST_PART * SAMPLE_RATE)
    pauses = [pause for pause in pauses if span.start + shortest <= pause[1] <= span.end - shortest]
    if not pauses:
        return None
    _, cut, number = max(pauses)
    return ClipSpan(span.start, cut, span.speech[:number]), ClipSpan(cut, span.end, span.speech[number:])


def collapse_loops(text: str) -> tuple[str, bool]:
    """The text with every run of `LOOP_TIMES` or more equal phrases cut to one, and whether there was one.

    A phrase is any 1 to 60 characters. Runs of one repeated digit, mark or letter ("10000000000", "-----") count as
    well only past 3 × as many, since they can be meant.
    """
    out, position, looped = [], 0, False
    while position < len(text):
        length, times = _run(text, position)
        if times:
            phrase = text[position : position + length]
            out.append(phrase)
            position += length * times
            # What is left of the phrase where the budget cut it off belongs to the loop.
            rest = text[position:]
            if phrase.startswith(rest):
                position = len(text)
            looped = True
        else:
            out.append(text[position])
            position += 1
    return "".join(out).strip(), looped


def _run(text: str, start: int) -> tuple[int, int]:
    """Length of the shortest phrase that loops from `start` on, and how often; (0, 0) when none does."""
    for length in range(1, min(LONGEST_PHRASE, (len(text) - start) // LOOP_TIMES) + 1):
        phrase = text[start : start + length]
        # One compare of the second copy rules nearly every length out.
        if not text.startswith(phrase, start + length):
            continue
        times = 2
        while text.startswith(phrase, start + times * length):
            times += 1
        needed = LOOP_TIMES if len(set(phrase.strip())) > 1 else 3 * LOOP_TIMES
        if times >= needed:
            return length, times
    return 0, 0
