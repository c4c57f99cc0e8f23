"""Whether there is room for a request: asked before a byte of its body is read, and answered at once.

    POST ─► stopping? ─► how long would it wait? ─► audio in work? ─► a place, and not too many for one ─► Place

A request that is let in has a place until it is answered. Who holds one is not let down: what is in work ends by its
own end, by its client's leaving, by its deadline or by the end of the service, and never for the sake of another. Only
an upload that dribbles gives its place up when somebody needs it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from starlette.types import Scope

from tingdao.api.access import ADMIN
from tingdao.errors import BadRequest, Overloaded, Stopping, TingdaoError, UploadTimeout
from tingdao.pipeline.load import Load
from tingdao.settings import ServerSettings

DEADLINE_HEADER = b"x-timeout"
TICKETS = "/api/v1/tickets"
REMEMBERED = 60.0
"""Seconds for which somebody who came counts as being there."""
PATIENCE = 1.0
"""Seconds that an upload may keep a place waiting that others need, beside those that its bytes take at the slowest."""
KIB = 1024


class Upload:
    """The body of a request as it comes, and how long it keeps us waiting.

    slowest: bytes per second that it must come with; 0 for any speed.
    """

    def __init__(self, slowest: float) -> None:
        self.received = 0
        self._slowest = slowest
        self._waited = 0.0
        self._since: float | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time in the block as waiting for bytes."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._waited += time.monotonic() - self._since
            self._since = None

    def left(self, patience: float) -> float:
        """Seconds that it may still keep us waiting: `patience` and what its bytes take at the slowest, in all."""
        if not self._slowest:
            return math.inf
        running = time.monotonic() - self._since if self._since is not None else 0.0
        return patience + self.received / self._slowest - self._waited - running

    @property
    def dribbles(self) -> bool:
        """Whether it keeps us waiting right now, for longer than others should have to."""
        return self._since is not None and self.left(PATIENCE) < 0


class Place:
    """A request that was let in. work: what is done for it. ended: why it is ended before its time, once it is."""

    def __init__(self, party: str, upload: Upload) -> None:
        self.party, self.upload = party, upload
        self.work: asyncio.Future[None] | None = None
        self.ended: TingdaoError | None = None

    def end(self, error: TingdaoError) -> None:
        """Cancel its work; `error` becomes its answer."""
        if self.ended is None and self.work is not None:
            self.ended = error
            self.work.cancel()


class Admission:
    """Lets requests in while there is room. Used from one event loop.

    settings: may be replaced while it serves.
    """

    def __init__(self, settings: ServerSettings, load: Load) -> None:
        self.settings = settings
        self.stopping = False
        self._load = load
        self._places: set[Place] = set()
        self._seen: dict[str, float] = {}  # when each party last came, the latest last

    @property
    def in_flight(self) -> int:
        """Requests that were let in and have no answer yet."""
        return len(self._places)

    def concerns(self, scope: Scope) -> bool:
        """Whether a request is work: reading and operating are always let in."""
        path: str = scope["path"]
        return scope["method"] == "POST" and not path.startswith(f"{ADMIN}/") and path != TICKETS

    def time_limit(self, scope: Scope) -> float | None:
        """Seconds that a request has; None for any time. Raises BadRequest."""
        most = self.settings.deadline_s or None
        given = dict(scope["headers"]).get(DEADLINE_HEADER)
        if given is None:
            return most
        try:
            wanted = float(given)
        except ValueError:
            wanted = math.nan
        if not 0 < wanted < math.inf:
            raise BadRequest(
                f"X-Timeout is how many seconds the request may take, such as 30, not {ascii(given[:40])[1:]}.",
                param="X-Timeout",
            )
        return min(wanted, most) if most else wanted

    @contextmanager
    def place(self, party: str, upload: Upload, seconds: float | None) -> Iterator[Place]:
        """A place for a request within the block.

        party: whom to be fair to. seconds: that the request has.
        Raises Overloaded, Stopping.
        """
        self._admit(party, seconds)
        place = Place(party, upload)
        self._places.add(place)
        try:
            yield place
        finally:
            self._places.discard(place)

    def stop(self) -> None:
        """Let nobody in any more."""
        self.stopping = True

    def end_all(self) -> None:
        """End what is still in work, since the service ends."""
        for place in self._places:
            place.end(Stopping("The service is being stopped, and this took too long to wait for. Send it again."))

    def _admit(self, party: str, seconds: float | None) -> None:
        if self.stopping:
            raise Stopping(
                "The service is being stopped. Send this again, to another instance or later.", retry_after=5
            )
        wait = self._load.wait
        if wait > self.settings.max_wait_s:
            raise Overloaded(
                f"It would take about {wait:.0f} s until this is begun, and {self.settings.max_wait_s:g} s is the most "
                "that anybody is made to wait. Try again later.",
                retry_after=wait,
            )
        if seconds is not None and wait >= seconds:
            raise Overloaded(
                f"It would take about {wait:.0f} s until this is begun, and it must be done within {seconds:g} s. "
                "Give it more time, or try again later.",
                retry_after=wait,
            )
        if (excess := self._load.seconds - self.settings.max_audio_hours * 3600) > 0:
            raise Overloaded(
                f"{self._load.seconds / 3600:.1f} h of audio are in work already. Try again later.",
                retry_after=max(wait, self._load.time_for(excess)),
            )
        self._find_place(party, wait)

    def _find_place(self, party: str, wait: float) -> None:
        """See to it that a place is free. Raises Overloaded."""
        others = self._others(party)
        free = self.settings.max_in_flight - len(self._places)
        mine = [place for place in self._places if place.party == party]
        # Alone, one may have every place. As soon as there are others, each may only have as many as are left free:
        # two that want all have a third each, and the last third is there for whoever comes next.
        if free <= 0:
            crowd: Iterable[Place] = self._places
            why = "As many requests as allowed are in work already. Try again soon."
        elif others and len(mine) >= free:
            crowd = mine
            why = f"{len(mine)} of your requests are in work already, and others are to have room too. Try again soon."
        else:
            return
        dribbling = next((place for place in crowd if place.upload.dribbles), None)
        if dribbling is None:
            raise Overloaded(why, retry_after=wait)
        self._places.discard(dribbling)
        dribbling.end(UploadTimeout("The upload came very slowly, and others needed its place. Send it again."))

    def _others(self, party: str) -> bool:
        """Whether anybody else came lately."""
        now = time.monotonic()
        self._seen.pop(party, None)
        self._seen[party] = now
        while (oldest := next(iter(self._seen))) and self._seen[oldest] < now - REMEMBERED:
            del self._seen[oldest]
        return len(self._seen) > 1 or any(place.party != party for place in self._places)
