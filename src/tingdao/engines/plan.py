"""What is to be served: the models that settings offer, with all names and routes resolved. It never changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tingdao.engines.base import Engine
from tingdao.engines.offer import Offer
from tingdao.errors import ModelNotFound, SetupError
from tingdao.settings import ModelsSettings, Route, RoutingSettings

DEFAULT = "default"
"""The name that always means the default model, or the routes where there are some."""
AUTO = "auto"
"""The same, as a wish: the service is to choose."""
CHOICE = frozenset({DEFAULT, AUTO})


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be served, as the settings say, with all names resolved.

    offers: by name, the default model first. kept: names of models that stay loaded.
    idle_s: seconds after which the others are unloaded; 0 is never.
    """

    offers: Mapping[str, Offer[Engine]]
    default: str
    aliases: Mapping[str, str]
    routes: tuple[Route, ...] = ()
    kept: frozenset[str] = frozenset()
    idle_s: float = 0

    @classmethod
    def of(
        cls,
        offers: Sequence[Offer[Engine]],
        aliases: Mapping[str, str],
        models: ModelsSettings,
        routes: RoutingSettings,
    ) -> Plan:
        """Raises SetupError that names the setting at fault."""
        names = cls({offer.name: offer for offer in offers}, offers[0].name, aliases)
        routed = tuple(
            route.model_copy(update={"model": names.required(route.model, "[routing] auto")}) for route in routes.auto
        )
        kept = {names.required(name, "[models] preload") for name in models.preload}
        if kept & CHOICE:
            kept |= {route.model for route in routed} | {names.default}
        return replace(names, routes=routed, kept=frozenset(kept - CHOICE), idle_s=models.idle_unload_s)

    def meaning(self, name: str | None) -> str:
        """The name of a model, or one of `CHOICE`. Raises ModelNotFound."""
        wanted = name or AUTO
        for _ in range(len(self.aliases) + 1):  # an alias may name another one
            if wanted in self.offers:
                return wanted
            if wanted not in self.aliases:
                break
            wanted = self.aliases[wanted]
        if wanted in CHOICE:
            return wanted
        raise ModelNotFound(
            f"There is no model {(name or '')[:80]!r} here. Models: {', '.join(self.offers)}; "
            f"{DEFAULT!r} is {self.default!r}.",
            param="model",
        )

    def required(self, name: str, setting: str) -> str:
        """The same for a name in a setting. Raises SetupError."""
        try:
            return self.meaning(name)
        except ModelNotFound as error:
            raise SetupError(f"{setting} is wrong: {error.message}") from None

    def with_default(self, name: str, offer: Offer[Engine]) -> Plan:
        """The same with another default model, offered even where it was not."""
        offers = {name: offer} | {each: self.offers[each] for each in self.offers if each != name}
        return replace(self, offers=offers, default=name, kept=self.kept | {name})
