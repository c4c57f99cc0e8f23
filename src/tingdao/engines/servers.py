"""The servers behind a model that runs on other machines: what is known of each, and what an operator may change.

connecting ─► up ⇄ down        draining: takes no new calls, by an operator's wish
              └─► leaving: no longer named; finishes its calls
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Literal, Protocol

from tingdao.engines.base import Ability

DETAIL = re.compile(r"[.:] ")
"""What the first part of a reason ends with."""
State = Literal["connecting", "up", "draining", "down", "leaving"]
Change = Literal["add", "drain", "resume", "remove"]


@dataclass(frozen=True, slots=True)
class Server:
    """One server now.

    name: its URL, with the address where a name leads to several. since: of the state, in seconds of the epoch; None
    where that is not kept. reason: why it is not up, in words: first of what kind it is, without any address, and after
    a colon or full stop the details. version, model, length (tokens of prompt and answer),
    can: found out when it was connected to; None and empty before. calls: clips at work there. outstanding: seconds of
    audio that they count for. pace: seconds that a second of audio took lately, waiting included; None before it is
    known. audio: seconds of audio answered well. failed: calls that failed through its fault. moved: calls that were
    taken off it, since it went down or was silent for too long.
    """

    name: str
    state: State
    since: float | None = None
    reason: str | None = None
    version: str | None = None
    model: str | None = None
    length: int | None = None
    can: frozenset[Ability] = frozenset()
    calls: int = 0
    outstanding: float = 0.0
    pace: float | None = None
    audio: float = 0.0
    failed: int = 0
    moved: int = 0

    @property
    def kind(self) -> str | None:
        """Of what kind the reason is, in words that anybody may read."""
        return DETAIL.split(self.reason)[0] if self.reason else None


class Servers(Protocol):
    """All servers of one loaded model."""

    def states(self) -> list[Server]:
        """Each of them now."""
        ...

    def change(self, what: Change, server: str) -> Awaitable[object]:
        """Add the servers of a URL; or drain, resume or remove one by its name, or all of a URL.

        What it gives is over when it is known how they are, or after a while.
        Raises BadRequest for what is no URL, ServerNotFound.
        """
        ...
