"""What callers see of their keys: `POST /api/v1/tickets`, `GET /api/v1/usage`; and operators: `GET /admin/keys`."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from tingdao.api.access import Access
from tingdao.api.edge import NativeError, NativeSuccess, OpenAIError, errors_of, success
from tingdao.caller import caller
from tingdao.usage import Account, Use, today


class Ticket(BaseModel):
    """Something to show in place of a key."""

    ticket: str | None = Field(description="Show it as `?ticket=…`; null while the service needs no key.")
    expires_in: float | None = Field(description="Seconds for which it is good, as often as needed.", examples=[60.0])
    expires_at: float | None = Field(description="When that ends, in seconds since 1970.")


class TicketAnswer(NativeSuccess):
    """The envelope of a ticket."""

    data: Ticket


class UsageData(BaseModel):
    """What a key has used today."""

    key: str | None = Field(description="Name of the key; null without one, when nothing is counted.")
    day: str = Field(description="The day in UTC.", examples=["2026-11-22"])
    requests: int
    seconds: float = Field(description="Seconds of audio that were worked on.")
    quota_seconds: float | None = Field(description="Seconds of audio per day; null without a quota.")
    left_seconds: float | None = Field(description="What is left of it; recordings in work are taken off already.")


class UsageAnswer(NativeSuccess):
    """The envelope of the use."""

    data: UsageData


class KeyEntry(BaseModel):
    """A key as operators see it; never the key itself."""

    name: str
    state: str = Field(description="`active`, `expired` or `revoked`.")
    admin: bool
    quota: str | None = Field(examples=["10h/day"])
    rate: str | None = Field(examples=["60/minute"])
    audio_rate: str | None = Field(examples=["30m/minute"])
    models: list[str] | None = Field(description="Models it may use; null: all.")
    created: float = Field(description="Seconds since 1970, as all times here.")
    expires: float | None
    revoked: float | None
    requests_today: int
    seconds_today: float


class KeyList(BaseModel):
    """All keys there ever were."""

    keys: list[KeyEntry]


def router(access: Access) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["keys"])

    @routes.post(
        "/api/v1/tickets",
        summary="A short-lived ticket for a browser",
        response_model=TicketAnswer,
        responses=errors_of(NativeError),
    )
    async def ticket() -> dict[str, Any]:
        name = caller.get().name
        if name is None:
            return success({"ticket": None, "expires_in": None, "expires_at": None})
        made, expires = access.tickets.issue(access.keys.named(name))
        return success({"ticket": made, "expires_in": access.tickets.lifetime, "expires_at": expires})

    @routes.get(
        "/api/v1/usage",
        summary="What your key has used today",
        response_model=UsageAnswer,
        responses=errors_of(NativeError),
    )
    async def usage() -> dict[str, Any]:
        who = caller.get()
        name, quota = who.name, who.quota if isinstance(who, Account) else None
        used = access.ledger.used(name) if name is not None else Use()
        return success(
            {
                "key": name,
                "day": today(),
                "requests": used.requests,
                "seconds": round(used.seconds, 3),
                "quota_seconds": quota.amount if quota else None,
                "left_seconds": round(max(0.0, access.ledger.left(name, quota)), 3) if name and quota else None,
            }
        )

    @routes.get("/admin/keys", summary="All keys, and their use today", responses=errors_of(OpenAIError))
    async def keys() -> KeyList:
        found = await asyncio.to_thread(access.keys.all)
        used = await asyncio.to_thread(access.ledger.history, today())
        return KeyList(
            keys=[
                KeyEntry(
                    name=key.name,
                    state=key.state,
                    admin=key.admin,
                    quota=key.quota.as_audio if key.quota else None,
                    rate=str(key.rate) if key.rate else None,
                    audio_rate=key.audio_rate.as_audio if key.audio_rate else None,
                    models=sorted(key.models) if key.models is not None else None,
                    created=key.created,
                    expires=key.expires,
                    revoked=key.revoked,
                    requests_today=used.get(key.name, Use()).requests,
                    seconds_today=round(used.get(key.name, Use()).seconds, 3),
                )
                for key in found
            ]
        )

    return routes
