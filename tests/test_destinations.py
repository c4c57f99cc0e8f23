"""Which addresses count as public, and what an entry of the allow-list opens."""

import ipaddress

import pytest
from pydantic import ValidationError

from tingdao.destinations import NEVER, SPECIAL, AllowedHost, Destinations, is_public
from tingdao.settings import FetchSettings

PUBLIC = ["8.8.8.8", "93.184.215.14", "1.1.1.1", "223.255.255.254", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "2400::1"]
NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "233.252.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::2",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:7f00:1::",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "fe80::a9fe:a9fe",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "2400::1%eth0",
]


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text):
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_not_public(text):
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("network", [*NEVER, *SPECIAL], ids=str)
def test_ranges_are_closed_from_end_to_end(network):
    assert not is_public(network[0])
    assert not is_public(network[-1])


def destinations(*allow, ports=(80, 443)):
    return Destinations([AllowedHost.parse(entry) for entry in allow], ports)


def permit(entry, host, port, address):
    return destinations(entry).permit(host, port, ipaddress.ip_address(address))


def test_public_hosts_are_permitted_on_allowed_ports():
    assert permit("x", "example.com", 443, "8.8.8.8")
    assert not permit("x", "example.com", 8443, "8.8.8.8")
    assert not permit("x", "example.com", 443, "10.0.0.1")


def test_what_comes_out_of_nat64_is_judged():
    assert permit("x", "example.com", 443, "64:ff9b::8.8.8.8")
    assert not permit("x", "example.com", 443, "64:ff9b::10.0.0.1")
    assert not permit("64:ff9b::/96", "example.com", 443, "64:ff9b::169.254.169.254")
    assert not permit("x", "example.com", 443, "64:ff9b:1::8.8.8.8")


@pytest.mark.parametrize(
    ("entry", "host", "port", "address", "expected"),
    [
        ("files.internal", "files.internal", 80, "10.0.0.7", True),
        ("files.internal", "files.internal.", 80, "10.0.0.7", True),
        ("Files.Internal.", "files.internal", 80, "127.0.0.1", True),
        ("files.internal", "files.internal", 9000, "10.0.0.7", False),
        ("files.internal", "xfiles.internal", 80, "10.0.0.7", False),
        ("files.internal", "files.internal.example.com", 80, "10.0.0.7", False),
        ("files.internal", "10.0.0.7", 80, "10.0.0.7", False),
        ("files.internal:9000", "files.internal", 9000, "10.0.0.7", True),
        ("files.internal:9000", "files.internal", 80, "10.0.0.7", False),
        ("10.0.0.7:9000", "10.0.0.7", 9000, "10.0.0.7", True),
        ("10.0.0.7:9000", "files.internal", 9000, "10.0.0.7", True),
        ("10.0.0.7:9000", "10.0.0.8", 9000, "10.0.0.8", False),
        ("192.168.0.0/16", "192.168.3.4", 443, "192.168.3.4", True),
        ("192.168.0.0/16:8080", "192.168.3.4", 8080, "192.168.3.4", True),
        ("192.168.0.0/16", "192.169.0.1", 443, "10.0.0.1", False),
        ("[::1]:8080", "::1", 8080, "::1", True),
        ("::1", "::1", 80, "::1", True),
        ("fd00::/8", "nas", 80, "fd12::1", True),
        ("[fd00::/8]:81", "nas", 81, "fd12::1", True),
        # Never, whatever is allowed.
        ("0.0.0.0/0", "10.0.0.1", 80, "10.0.0.1", True),
        ("0.0.0.0/0", "x", 80, "169.254.169.254", False),
        ("0.0.0.0/0", "x", 80, "100.100.100.200", False),
        ("0.0.0.0/0", "x", 80, "0.0.0.0", False),
        ("0.0.0.0/0", "x", 80, "64:ff9b::a9fe:a9fe", False),
        ("::/0", "x", 80, "::ffff:169.254.169.254", False),
        ("::/0", "x", 80, "fd00:ec2::254", False),
        ("files.internal", "files.internal", 80, "169.254.169.254", False),
        ("files.internal", "files.internal", 80, "168.63.129.16", False),
        ("files.internal", "files.internal", 80, "fe80::1%eth0", False),
    ],
)
def test_entries(entry, host, port, address, expected):
    assert permit(entry, host, port, address) is expected


@pytest.mark.parametrize(
    "entry",
    [
        "http://files.internal",
        "files.internal/audio",
        "*.internal",
        "user@files.internal",
        "files.internal:port",
        "files.internal:0",
        "files.internal:70000",
        "10.0.0.7/8",
        "10.0.0.256",
        "127.1",
        "2130706433",
        "0x7f.1",
        "files..internal",
        "datei.bücher",
        "",
        "[::1",
        "[::1]x",
        "169.254.169.254",
        "169.254.0.0/24",
        "100.100.100.200:80",
        "fe80::1",
        "::ffff:10.0.0.1",
    ],
)
def test_entries_that_are_wrong_are_named(entry):
    with pytest.raises(ValidationError) as caught:
        FetchSettings(allow=["ok.internal", entry])
    (error,) = caught.value.errors()
    assert error["loc"] == ("allow", 1)
    assert repr(entry) in error["msg"]


def test_lists_come_from_the_environment_as_json(monkeypatch, tmp_path):
    from tingdao import settings
    from tingdao.errors import SetupError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINGDAO_FETCH_ALLOW", '["files.internal:9000", "10.0.0.0/8"]')
    monkeypatch.setenv("TINGDAO_FETCH_PORTS", "[8443]")
    loaded = settings.load().fetch
    assert [entry.port for entry in loaded.allow] == [9000, None]
    assert loaded.ports == (8443,)
    monkeypatch.setenv("TINGDAO_FETCH_ALLOW", "files.internal")
    with pytest.raises(SetupError, match=r"fetch.allow.*is not JSON"):
        settings.load()
    monkeypatch.setenv("TINGDAO_FETCH_ALLOW", '["files.internal/x"]')
    with pytest.raises(SetupError, match=r"fetch\.allow.*files\.internal/x"):
        settings.load()
