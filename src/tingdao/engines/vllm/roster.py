"""Which servers a model is to have: of the settings, started here, as operators changed it; and where they are."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tingdao.engines.vllm.client import Address

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""Host name and port → IP addresses. Raises OSError."""


@dataclass(slots=True)
class Roster:
    """Servers by URL.

    settings: those of the settings. started: those that this service started. added: by operators. removed: by
    operators, URLs, and single addresses behind one as `str(Address)`.
    """

    settings: tuple[str, ...]
    started: dict[str, None] = field(default_factory=dict)
    added: dict[str, None] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)

    @property
    def urls(self) -> list[str]:
        """All of them, without those that were removed."""
        return [url for url in dict.fromkeys((*self.settings, *self.started, *self.added)) if url not in self.removed]

    def has(self, address: Address) -> bool:
        """Whether an address that a URL leads to is to be used."""
        return address.url in self.urls and str(address) not in self.removed

    def add(self, url: str) -> None:
        """Have the servers of a URL, all of them, whatever was removed before."""
        self.removed = {name for name in self.removed if name != url and not name.startswith(f"{url} (")}
        if url not in self.settings and url not in self.started:
            self.added[url] = None

    def remove(self, name: str) -> None:
        """Have the servers of a URL no more, or one address behind it."""
        if name in self.added:
            del self.added[name]
        else:
            self.removed.add(name)


async def system_lookup(host: str, port: int) -> list[str]:
    """Addresses of a name, of one family only: the two of one machine must not count as two servers."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families = {family for family, *_ in found}
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    return sorted({str(address[0]) for of, *_, address in found if of == family})


async def resolve(url: str, lookup: Lookup = system_lookup) -> list[Address]:
    """The addresses that a URL of the settings leads to. Raises OSError."""
    parts = urlsplit(url)
    assert parts.hostname
    try:
        ipaddress.ip_address(parts.hostname)
    except ValueError:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            return [Address(url, ip) for ip in await lookup(parts.hostname, port)]
        except ValueError as error:  # no host can have such a name
            raise OSError(str(error)) from None
    return [Address(url)]
