"""`GET /ready`: whether to send requests here, for load balancers; `/health` says only that the service lives."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from tingdao.api.admission import Admission
from tingdao.engines.registry import ModelState
from tingdao.pipeline.service import Service

LOADING = "The model is being loaded. How far it is, is in the log and in /admin/status."


class Readiness(BaseModel):
    """Whether the service takes requests, and why not."""

    ready: bool
    model: str = Field(description="The default model.")
    reason: str | None = Field(None, description="Why not, in words.")


def router(service: Service, admission: Admission) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["native"])

    @routes.get(
        "/ready",
        summary="Should requests be sent here?",
        response_model=Readiness,
        responses={503: {"model": Readiness, "description": "Not now."}},
    )
    async def ready(response: Response) -> Readiness:
        state = service.registry.state()
        reason = "The service is being stopped." if admission.stopping else _reason(state)
        if reason:
            response.status_code = 503
        return Readiness(ready=reason is None, model=state.name, reason=reason)

    return routes


def _reason(state: ModelState) -> str | None:
    """Why the model would not answer."""
    if state.state == "ready" or (state.state == "idle" and not state.kept):  # the next request loads it
        return None
    return failure(state) if state.state == "failed" else LOADING


def failure(state: ModelState) -> str:
    """Why a model does not serve, in words that anybody may read: without addresses."""
    reasons = dict.fromkeys(server.kind for server in state.servers if server.kind)
    if reasons:
        return f"No server of the model can be used. {'. '.join(reasons)}. The log and `tingdao check` say more."
    return "The model could not be loaded. The reason is in the log; `tingdao check` says what to do."
