"""The HTTP client of the vLLM engine, against servers that say word for word what a test wants."""

import asyncio
import ssl
from contextlib import asynccontextmanager

import pytest

from tingdao.engines.vllm import client as client_module
from tingdao.engines.vllm.client import Address, Client, ConnectFailed, ConnectionBroke, Request


def run(main):
    return asyncio.run(main())


class Scripted:
    """A server that answers each request with the next script: what to send, and None to close."""

    def __init__(self, *scripts):
        self.scripts = list(scripts)
        self.heads: list[str] = []
        self.connections = 0
        self.gone = asyncio.Event()

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while self.scripts:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                if "Content-Length" in head:
                    await reader.readexactly(int(head.split("Content-Length: ")[1].split("\r\n")[0]))
                for part in self.scripts.pop(0):
                    if part is None:
                        return
                    if isinstance(part, float):
                        await asyncio.sleep(part)
                    else:
                        writer.write(part)
                        await writer.drain()
            await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.gone.set()
            writer.close()


@asynccontextmanager
async def talking(*scripts):
    """(client, address, server)."""
    scripted = Scripted(*scripts)
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    client = Client({"X-Mine": "yes"}, ssl.create_default_context(), 1.0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield client, Address(f"http://gpus.internal:{port}/at%20home", "127.0.0.1"), scripted
    finally:
        await client.close()
        server.close()


async def whole(client, address, body=None, gather=0.0):
    """(status, body, parts in which it came)."""
    async with client.send(address, Request("/x", body)) as answer:
        parts = []
        while part := await answer.read(gather):
            parts.append(part)
        return answer.status, b"".join(parts), len(parts)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_what_is_sent_and_one_connection_for_all_of_it():
    async def main():
        async with talking([OK], [CHUNKED + b"2\r\nhi\r\n", b"3\r\n yo\r\n0\r\n\r\n"], [OK]) as (
            client,
            address,
            server,
        ):
            assert await whole(client, address) == (200, b"hi", 1)
            assert (await whole(client, address, b"{}"))[:2] == (200, b"hi yo")
            assert await whole(client, address) == (200, b"hi", 1)
            assert server.connections == 1
            port = address.url.split(":")[2].split("/")[0]
            request, *headers = server.heads[1].split("\r\n")
            assert request == "POST /at%20home/x HTTP/1.1"
            assert {
                f"Host: gpus.internal:{port}",
                "X-Mine: yes",
                "Content-Type: application/json",
                "Content-Length: 2",
            } <= {*headers}

    run(main)


@pytest.mark.parametrize(
    "script",
    [
        [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"],
        [b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi"],
        [OK, None],
        [b"HTTP/1.1 200 OK\r\n\r\nh", b"i", None],  # which ends with the connection
    ],
)
def test_a_connection_that_is_no_longer_good_is_not_used_again(script):
    async def main():
        async with talking(script, [OK]) as (client, address, server):
            assert (await whole(client, address))[:2] == (200, b"hi")
            await asyncio.sleep(0.1)
            assert (await whole(client, address))[:2] == (200, b"hi")
            assert server.connections == 2

    run(main)


def test_one_that_was_idle_for_long_is_not_used_again(monkeypatch):
    monkeypatch.setattr(client_module, "KEEP_ALIVE_SECONDS", 0.05)

    async def main():
        async with talking([OK], [OK]) as (client, address, server):
            await whole(client, address)
            await asyncio.sleep(0.1)
            await whole(client, address)
            assert server.connections == 2

    run(main)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ([None], "the server closed it"),
        ([b"HTTP/1.1 200 OK\r\nContent-Le", None], "the server closed it"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", None], "received 2 of 9 bytes"),
        ([CHUNKED + b"2\r\nhi\r\n", None], "not completed"),
        ([CHUNKED + b"no number\r\n"], "Invalid character in chunk size"),
        ([b"SSH-2.0-OpenSSH\r\n"], "Bad status line"),
        ([b"HTTP/1.1 200 OK\r\n", *[b"X-Long: " + b"x" * 60_000 + b"\r\n"] * 9, 0.5], "Got more than 8190 bytes"),
    ],
)
def test_what_is_no_whole_answer(script, why):
    async def main():
        async with talking(script) as (client, address, server):
            with pytest.raises(ConnectionBroke, match=why):
                await whole(client, address, b"{}")
            await asyncio.wait_for(server.gone.wait(), 1)

    run(main)


def test_who_reads_too_late_does_not_fill_the_memory():
    async def main():
        parts = 4000
        async with (
            talking([CHUNKED, *[b"4000\r\n" + b"x" * 0x4000 + b"\r\n"] * parts, b"0\r\n\r\n"]) as (
                client,
                address,
                _,
            ),
            client.send(address, Request("/x")) as answer,
        ):
            await asyncio.sleep(0.3)
            first = len(await answer.read())
            assert first < 2_000_000  # the rest waits at the server
            while part := await answer.read():
                first += len(part)
            assert first == parts * 0x4000

    run(main)


def test_an_announcement_is_not_the_answer():
    async def main():
        async with talking([b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", OK]) as (client, address, _):
            assert await whole(client, address) == (200, b"hi", 1)

    run(main)


def test_parts_gather_and_the_end_does_not_wait():
    async def main():
        script = [CHUNKED, *[b"1\r\nx\r\n", 0.01] * 20, b"0\r\n\r\n"]
        async with talking(script, script, script) as (client, address, _):
            assert (await whole(client, address))[1:] >= (b"x" * 20, 10)
            began = asyncio.get_running_loop().time()
            assert await whole(client, address, gather=60) == (200, b"x" * 20, 1)
            assert asyncio.get_running_loop().time() - began < 5
            _, body, parts = await whole(client, address, gather=0.08)
            assert body == b"x" * 20
            assert 2 <= parts <= 5

    run(main)


def test_who_leaves_closes_the_connection():
    async def main():
        async with talking([CHUNKED + b"2\r\nhi\r\n"], [60.0]) as (client, address, server):
            async with client.send(address, Request("/x")) as answer:
                assert await answer.read() == b"hi"
            await asyncio.wait_for(server.gone.wait(), 1)
            asked = asyncio.create_task(whole(client, address))
            await asyncio.sleep(0.1)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked

    run(main)


def test_nobody_there():
    async def main():
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        client = Client({}, ssl.create_default_context(), 1.0)
        with pytest.raises(ConnectFailed, match=r"refused|Connect call failed"):
            await whole(client, Address(f"http://127.0.0.1:{port}"))
        await client.close()

        async with talking([60.0]) as (_, address, _server):
            port = address.url.split(":")[2].split("/")[0]
            client = Client({}, ssl.create_default_context(), 0.05)
            with pytest.raises(ConnectFailed):  # it never says a word of TLS
                await whole(client, Address(f"https://gpus.internal:{port}", "127.0.0.1"))
            await client.close()

    run(main)


def test_names_are_sent_as_hosts_write_them():
    async def main():
        async with talking([OK], [OK]) as (client, address, server):
            port = address.url.split(":")[2].split("/")[0]
            await whole(client, Address(f"http://bücher.example:{port}", "127.0.0.1"))
            await whole(client, Address(f"http://127.0.0.1:{port}/a b"))
            assert f"Host: xn--bcher-kva.example:{port}" in server.heads[0]
            assert server.heads[1].startswith("GET /a%20b/x HTTP/1.1")

    run(main)
