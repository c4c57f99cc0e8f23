"""Who work is done for, wherever the work is: the door sets it, the pipeline asks and reports.

    api/access ── caller.set(…) ──► pipeline/service:  caller.get().allowed(models)
                                                       with caller.get().work() as work: reserve, reach

The pipeline knows neither keys nor limits; it knows that somebody may have them.
"""

from __future__ import annotations

from contextvars import ContextVar
from types import TracebackType
from typing import Self


class Work:
    """One piece of work for a caller, as a context manager: what it will take, and what it has taken.

    This one is not counted.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """What was reserved and not reached is free again; what was reached stays counted."""

    def reserve(self, seconds: float) -> None:
        """Say that this work is at least `seconds` of audio long. Raises QuotaExceeded when less than that is left."""

    def reach(self, seconds: float) -> None:
        """Say that `seconds` of audio have been worked on since the beginning."""


class Caller:
    """Somebody who may do everything and whose work is not counted: the command line, say."""

    name: str | None = None
    """Name of the key; None without one."""
    admin: bool = True
    """Whether the caller may operate the service."""
    address: str = ""
    """Where the caller is; an IPv6 network of /64 is one address. Empty on the command line."""

    @property
    def party(self) -> str:
        """Whom to be fair to: the key, or without one the address."""
        return self.name or self.address

    def allowed(self, models: list[str]) -> list[str]:
        """Those of these models (real names, no aliases) that the caller may use.

        Raises ModelNotAllowed when that is none of them.
        """
        return models

    def work(self) -> Work:
        """Begin a piece of work."""
        return Work()


ANYBODY = Caller()
caller: ContextVar[Caller] = ContextVar("caller", default=ANYBODY)
"""The caller that the running code works for."""
