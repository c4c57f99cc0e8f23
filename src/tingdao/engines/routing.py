"""Which model gets a request that leaves the choice to the service: by duration, language and load.

The routes are settings; here is what they mean. Nothing here waits or looks anything up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tingdao.settings import Route


@dataclass(frozen=True, slots=True)
class Load:
    """How a model is doing. up: whether it can be expected to work. waiting: clips that wait for it."""

    up: bool = True
    waiting: int = 0


def horizon(routes: Sequence[Route]) -> float:
    """Seconds of a recording after which its exact duration no longer matters to any route."""
    return max((route.max_duration_s for route in routes if route.max_duration_s is not None), default=0.0)


def ranked(routes: Sequence[Route], *, duration: float, language: str | None, loads: Mapping[str, Load]) -> list[str]:
    """The models to try, best first, each once.

    Those whose route fits come first, then the others as a last resort, and of each the ones that are up before
    those that are down: a model that is down may be back, but only a request that nobody else takes finds that out.

    duration: of the recording, in seconds; past the horizon any value is as good.
    language: ISO code that the request names, or None.
    loads: of every model that a route names.
    """
    fitting = [route.model for route in routes if _fits(route, duration, language, loads[route.model])]
    order = list(dict.fromkeys([*fitting, *(route.model for route in routes)]))
    return sorted(order, key=lambda model: not loads[model].up)  # stable


def _fits(route: Route, duration: float, language: str | None, load: Load) -> bool:
    return (
        (route.max_duration_s is None or duration <= route.max_duration_s)
        and (not route.languages or language in route.languages)
        and (route.max_waiting is None or load.waiting <= route.max_waiting)
    )
