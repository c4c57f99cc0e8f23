"""Where outgoing requests may go: public addresses on allowed ports, and the private hosts that the operator names.

A request is judged by the address that it is about to dial, never by how the URL writes it:

    NEVER     link-local and metadata services, multicast, "this host", IPv4 dressed as IPv6     refused, always
    SPECIAL   loopback, private and every other special-purpose range                            refused, unless named
    the rest  public                                                                             on allowed ports

The ranges are those of IANA's IPv4 and IPv6 special-purpose registries (RFC 6890 and its updates); `is_global` of the
standard library is asked as well, but it lets multicast, NAT64 and 6to4 pass, and changes with Python's version. Of
IPv6 only 2000::/3 is public at all. NAT64 (64:ff9b::/96, RFC 6052) is judged by the IPv4 address that packets come out
at, so networks with IPv6 alone work.

An entry that is an address opens that address for every name that leads to it, and nothing else. An entry that is a
name is trusted wherever it leads, short of NEVER: whoever controls its DNS zone chooses the address anew each time,
so name only hosts of zones that are yours.

This module does no lookups and knows no URLs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NAME = re.compile(r"(?=.{1,254}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
"""A host name as DNS has it: ASCII and lower case, perhaps with the dot of the root."""
_NUMERIC = re.compile(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)\.?")
"""What resolvers read as an IPv4 address in decimal, octal or hexadecimal parts."""


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


NEVER = _networks(
    "0.0.0.0/8",
    "169.254.0.0/16",  # link-local: metadata of AWS, Google, Azure, Tencent and others, and credentials of containers
    "100.100.100.200",  # metadata of Alibaba Cloud
    "192.0.0.192",  # metadata of Oracle Cloud
    "168.63.129.16",  # Azure's host agent, at a public address
    "224.0.0.0/4",
    "255.255.255.255",
    "::",
    "::ffff:0:0/96",  # mapped: nobody has to write an IPv4 address so
    "fd00:ec2::/32",  # metadata of AWS
    "fd20:ce::254",  # metadata of Google
    "fe80::/10",
    "ff00::/8",
)
SPECIAL = _networks(
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "240.0.0.0/4",
    "2001::/23",  # with Teredo, 2001::/32
    "2001:db8::/32",
    "2002::/16",
    "2620:4f:8000::/48",
    "3fff::/20",
)
PUBLIC_IPV6 = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """An entry of the allow-list: a name or a network; port None stands for the ports that are allowed anyway."""

    host: str | Network
    port: int | None

    @classmethod
    def parse(cls, entry: str) -> AllowedHost:
        """Read `name`, `address` or `network/bits`, each with or without `:port`; IPv6 with a port needs brackets.

        Raises ValueError that names the entry.
        """
        text = entry.strip().lower()
        bracketed = re.fullmatch(r"\[(?P<host>[^\[\]]+)\](:(?P<port>[0-9]+))?", text)
        plain = re.fullmatch(r"(?P<host>[^:\[\]]+)(:(?P<port>[0-9]+))?", text)
        found = bracketed or plain
        host, port = (found["host"], found["port"]) if found else (text, None)
        if port is not None and not 0 < int(port) < 65_536:
            raise ValueError(f"{entry!r} has a port that does not exist.")
        return cls(_host(host, entry), int(port) if port else None)

    def covers(self, host: str, address: Address) -> bool:
        """Whether the entry means this host, or the address that it leads to."""
        return host.removesuffix(".") == self.host if isinstance(self.host, str) else address in self.host


def _host(text: str, entry: str) -> str | Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        if "has host bits set" in str(error):
            raise ValueError(f"{entry!r} is no network: {error}.") from None
        if not NAME.fullmatch(text) or _NUMERIC.fullmatch(text):
            raise ValueError(
                f"{entry!r} is not a host. Write a name, an address or a network, with or without a port, such as "
                "files.internal, 10.0.0.7:9000, 192.168.0.0/16 or [fd00::7]:9000; no http://, path or *."
            ) from None
        return text.removesuffix(".")
    # Networks of two versions cannot be compared, so mypy wants to see that these are of one.
    if any(type(network) is type(never) and network.subnet_of(never) for never in NEVER):  # type: ignore[arg-type]
        raise ValueError(f"{entry!r} is never fetched from: metadata services, link-local, multicast and the like.")
    return network


class Destinations:
    """The rules of one service."""

    def __init__(self, allow: Iterable[AllowedHost], ports: Iterable[int]) -> None:
        self._allow = tuple(allow)
        self.ports = frozenset(ports)

    def permit(self, host: str, port: int, address: Address) -> bool:
        """Whether a request to this host, in ASCII and lower case, may dial this address, to which it leads."""
        if isinstance(address, IPv6Address) and address in NAT64:
            address = IPv4Address(int(address) & 0xFFFF_FFFF)
        if _within(address, NEVER):
            return False
        if port in self.ports and is_public(address):
            return True
        return any(self._opens(entry, port) and entry.covers(host, address) for entry in self._allow)

    def name(self, host: str, port: int) -> bool:
        """Whether the operator allowed this very host by its name."""
        return any(self._opens(entry, port) and entry.host == host.removesuffix(".") for entry in self._allow)

    def _opens(self, entry: AllowedHost, port: int) -> bool:
        return port == entry.port or (entry.port is None and port in self.ports)


def is_public(address: Address) -> bool:
    """Whether everybody on the internet may mean the same host by this address."""
    if isinstance(address, IPv6Address) and (address.scope_id is not None or address not in PUBLIC_IPV6):
        return False
    return address.is_global and not _within(address, NEVER) and not _within(address, SPECIAL)


def _within(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)
