"""An evaluation as a page to read: the rates, and what was wrong in each recording, worst first.

One file without scripts, with nothing that is fetched; what was said and heard is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby

from tingdao.evaluation import UNKNOWN, Rate, Result, Step, unit_of, worst_first
from tingdao.languages import name_of

HEADING = ("language", "", "rate", "95 % interval", "recordings", "units", "replaced", "missing", "added")
STYLE = """
:root { color-scheme: light dark; --wrong: #c0262d; --right: #1a7f37; --line: #8884; }
@media (prefers-color-scheme: dark) { :root { --wrong: #ff8a80; --right: #7ee2a0; } }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
table { border-collapse: collapse; } th, td { padding: .25rem .9rem .25rem 0; text-align: end; }
th:first-child, td:first-child { text-align: start; } tbody tr { border-top: 1px solid var(--line); }
article { border-top: 1px solid var(--line); padding: .6rem 0; overflow-wrap: anywhere; }
h3 { font-size: .9rem; font-weight: 600; margin: 0; } h3 span { font-weight: 400; }
article p { margin: .3rem 0; } .texts { font-size: .85rem; opacity: .8; }
del { color: var(--wrong); } ins { color: var(--right); text-decoration: underline; }
"""


def page(
    title: str, facts: Sequence[str], rates: Sequence[Rate], results: Sequence[Result], failed: dict[str, str]
) -> str:
    """The whole page.

    facts: lines about how it was measured. failed: recordings that do not count, and why.
    """
    ordered = worst_first(results)
    wrong = [result for result in ordered if result.wrong]
    right = [result for result in ordered if not result.wrong]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(fact)}</p>" for fact in facts),
        _table(rates),
    ]
    if wrong:
        parts.append(
            f"<h2>What was wrong: {len(wrong)} of {len(results)} recordings, worst first</h2>"
            "<p><del>Struck through</del> was said and not heard; <ins>underlined</ins> was heard instead, or added. "
            "Texts are shown as they were compared, and below as written.</p>"
        )
        parts += [_recording(result) for result in wrong]
    if right:
        parts.append(f"<h2>Without a mistake: {len(right)} recordings</h2><p>{_names(r.name for r in right)}</p>")
    if failed:
        parts.append(f"<h2>Not counted: {len(failed)}</h2><ul>")
        parts += [f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in failed.items()]
        parts.append("</ul>")
    return "\n".join([*parts, "</body></html>", ""])


def named(language: str | None) -> str:
    """A language's name in a table; None is all of them."""
    if language is None:
        return "all"
    return "not given" if language == UNKNOWN else name_of(language)


def percent(share: float | None) -> str:
    """A share with one decimal, or a dash."""
    return "–" if share is None else f"{share:.1%}"


def cells(rate: Rate) -> tuple[str, ...]:
    """A rate as the row of a table, below `HEADING`."""
    return (
        named(rate.language),
        rate.measure,
        percent(rate.rate),
        "–" if rate.interval is None else " – ".join(percent(end) for end in rate.interval),
        *(f"{n:,}" for n in (rate.recordings, rate.units, rate.replaced, rate.missing, rate.added)),
    )


def _table(rates: Sequence[Rate]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADING)
    rows = ("".join(f"<td>{escape(cell)}</td>" for cell in cells(rate)) for rate in rates)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _recording(result: Result) -> str:
    unit = unit_of(result.language)
    language = named(result.language)
    if result.detected not in (None, result.language):
        language += f", heard as {named(result.detected)}"
    attributes = f'lang="{escape(result.language)}" dir="auto"'
    return (
        f"<article><h3>{escape(result.name)} <span>· {percent(result.rate)} · {result.wrong} of {result.units} {unit}"
        f" · {escape(language)} · {result.duration:.1f} s</span></h3>"
        f"<p {attributes}>{_diff(result.steps, '' if unit == 'characters' else ' ')}</p>"
        f'<p class="texts" {attributes}>said: {escape(result.said)}<br>heard: {escape(result.heard) or "nothing"}</p>'
        "</article>"
    )


def _diff(steps: Sequence[Step], between: str) -> str:
    parts = []
    for alike, run in groupby(steps, key=lambda step: step[0] == step[1]):
        said, heard = (between.join(unit for unit in units if unit is not None) for units in zip(*run, strict=True))
        if alike:
            parts.append(escape(said))
        else:
            parts += [f"<{tag}>{escape(text)}</{tag}>" for tag, text in (("del", said), ("ins", heard)) if text]
    return between.join(parts)


def _names(names: Iterable[str]) -> str:
    return " · ".join(escape(name) for name in names)
