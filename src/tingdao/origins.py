"""Where each setting came from, and what to say about one that is wrong: name, value, source, what is allowed.

Knows no setting by name: everything is read off the pydantic model. Secrets are never shown.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

Trail = tuple[str, ...]
"""A setting's name: `("server", "port")`, or `("model",)` at the top."""

BLANK = "…"
VALUE_ERROR = "Value error, "
"""How pydantic begins what our own checks say."""
LONGEST = 100
"""Characters shown of a value."""
KINDS: dict[object, str] = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
_PASSWORD = re.compile(r"(://)[^/@\s\"]+@")


@dataclass(frozen=True, slots=True)
class Source:
    """Something that settings come from.

    place: how it names one setting, for people. values: what it has, sections as tables.
    """

    place: Callable[[Trail], str]
    values: Mapping[str, Any]

    def get(self, trail: Trail) -> Any:  # noqa: ANN401  whatever was written there
        """What it has for a setting. Raises KeyError."""
        value: Any = self.values
        for name in trail:
            if not isinstance(value, Mapping):
                raise KeyError(name)
            value = value[name]
        return value


@dataclass(frozen=True, slots=True)
class Origin:
    """A setting that is not left at its default.

    value: as it was written, shortened, a secret blanked. where: the source that counts. over: weaker ones, hidden.
    """

    name: str
    value: str
    where: str
    over: tuple[str, ...] = ()

    def __str__(self) -> str:
        hidden = f", over {' and '.join(self.over)}" if self.over else ""
        return f"{self.name} = {self.value}  ({self.where}{hidden})"


def fields(model: type[BaseModel]) -> Iterator[tuple[Trail, FieldInfo]]:
    """Every setting there is."""
    for name, field in model.model_fields.items():
        if section := section_of(field):
            for option, inner in section.model_fields.items():
                yield (name, option), inner
        else:
            yield (name,), field


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a section; None for a setting."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def origins(model: type[BaseModel], sources: Sequence[Source]) -> list[Origin]:
    """The settings that some source has. sources: the strongest first."""
    found = (origin_of(trail, field, sources) for trail, field in fields(model))
    return [origin for origin in found if origin]


def origin_of(trail: Trail, field: FieldInfo | None, sources: Sequence[Source]) -> Origin | None:
    """Where one setting came from; None for its default. field: None for one that does not exist."""
    given = []
    for source in sources:
        try:
            given.append((source.place(trail), source.get(trail)))
        except KeyError:
            continue
    if not given:
        return None
    (where, value), *weaker = given
    return Origin(".".join(trail), _shown(value, field), where, tuple(place for place, _ in weaker))


def explain(error: ValidationError, model: type[BaseModel], sources: Sequence[Source]) -> str:
    """What is wrong with settings, line by line."""
    known = dict(fields(model))
    lines = []
    for item in error.errors(include_url=False, include_context=False):
        location = tuple(str(part) for part in item["loc"])
        trail = next((location[:depth] for depth in (1, 2) if location[:depth] in known), location[:2])
        field = known.get(trail)
        origin = origin_of(trail, field, sources)
        if item["type"] == "extra_forbidden" and field is None:
            # Its value is not at fault, and may be a secret under a misspelt name.
            lines.append(f"{'.'.join(trail)}  ({origin.where if origin else 'unknown'}): {unknown(trail, model)}")
            continue
        if field is None:
            lines += _of_section(trail, known, sources, str(item["msg"]))
            continue
        inside = "".join(f"[{part}]" for part in location[len(trail) :])
        what = f"{inside} {item['msg']}".strip().replace(VALUE_ERROR, "")
        lines.append(f"{origin or '.'.join(trail)}: {what}\n      Allowed: {allowed(field)}")
    return "\n".join(f"  {line}" for line in lines)


def _of_section(trail: Trail, known: Mapping[Trail, FieldInfo], sources: Sequence[Source], what: str) -> list[str]:
    """What is wrong with settings that do not go together."""
    mine = {each: field for each, field in known.items() if each[: len(trail)] == trail}
    given = [(origin, field) for each, field in mine.items() if (origin := origin_of(each, field, sources))]
    lines = [f"{origin}\n      Allowed: {allowed(field)}" for origin, field in given]
    return [f"{'.'.join(trail) or 'settings'}: {what.replace(VALUE_ERROR, '')}", *lines]


def unknown(trail: Trail, model: type[BaseModel]) -> str:
    """What to say about a name that is no setting."""
    names = [".".join(each) for each, _ in fields(model)]
    close = get_close_matches(".".join(trail), names, 3, 0.7)
    if close:
        return f"there is no such setting. Is it {' or '.join(close)}?"
    section = [name for name in names if "." in name and name.startswith(f"{trail[0]}.")] if len(trail) > 1 else []
    tops = sorted({name.partition(".")[0] for name in names})
    return f"there is no such setting. Allowed: {', '.join(section or tops)}"


def allowed(field: FieldInfo) -> str:
    """What a setting may be, in words."""
    kind = field.annotation
    words = [text for text in (_kind(kind), _bounds(field)) if text]
    return ". ".join(part for part in (", ".join(words), field.description or "") if part)


def is_table(field: FieldInfo) -> bool:
    """Whether its value is a list or a table, which environment variables hold as JSON."""
    return any(get_origin(kind) in {list, tuple, dict} for kind in _plain(field.annotation))


def _plain(kind: object) -> list[object]:
    """The types that a value may have, without None and annotations."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in {Union, types.UnionType}:
        return [plain for each in get_args(kind) for plain in _plain(each)]
    return [] if kind is type(None) else [kind]


def _kind(kind: object) -> str:
    named = []
    for each in _plain(kind):
        if get_origin(each) is Literal:
            named.append("one of " + ", ".join(str(value) for value in get_args(each)))
        elif get_origin(each) in {list, tuple}:
            named.append("a list")
        elif get_origin(each) is dict:
            named.append("a table")
        elif each in KINDS:
            named.append(KINDS[each])
    return " or ".join(named)


def _bounds(field: FieldInfo) -> str:
    words = []
    for bound in field.metadata:
        match bound:
            case annotated_types.Ge(ge=least):
                words.append(f"at least {least}")
            case annotated_types.Gt(gt=least):
                words.append(f"more than {least}")
            case annotated_types.Le(le=most):
                words.append(f"at most {most}")
            case annotated_types.Lt(lt=most):
                words.append(f"less than {most}")
            case _:
                continue
    return " and ".join(words)


def _shown(value: object, field: FieldInfo | None) -> str:
    if field is None or SecretStr in _plain(field.annotation):
        return BLANK
    text = _PASSWORD.sub(rf"\1{BLANK}@", json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}{BLANK}"
