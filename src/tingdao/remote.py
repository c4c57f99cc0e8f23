"""A running service, as the command line asks things of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx2

from tingdao.errors import SetupError

CONNECT_SECONDS = 10.0
TICK_SECONDS = 1.0


async def ask(
    url: str, path: str, body: dict[str, Any] | None, key: str | None, waiting: Callable[[float], None]
) -> dict[str, Any]:
    """Post to a service, or get where there is no body, and wait for as long as it takes; its answer.

    waiting: told every second how many have passed.
    Raises SetupError when there is no service, or with what it answers.
    """
    headers = {"authorization": f"Bearer {key}"} if key else {}
    timeout = httpx2.Timeout(None, connect=CONNECT_SECONDS)
    # No proxy from the environment: the service is near, and its key is for nobody else.
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=timeout, trust_env=False) as client:
        request = asyncio.ensure_future(client.get(path) if body is None else client.post(path, json=body))
        begun = time.monotonic()
        try:
            while not (await asyncio.wait({request}, timeout=TICK_SECONDS))[0]:
                waiting(time.monotonic() - begun)
            answer = request.result()
        except httpx2.TransportError as error:
            raise SetupError(f"{url} does not answer ({error or type(error).__name__}). Is it serving there?") from None
        finally:
            request.cancel()
    try:
        said = answer.json()
        if answer.is_success:
            return dict(said)
        message = said["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"{url} answered {answer.status_code}, and not as Tingdao does. Is that its address?"
    raise SetupError(message)
