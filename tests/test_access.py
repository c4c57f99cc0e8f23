"""Who is let in: every route and socket, keys, tickets, hosts, origins, limits; and that no secret is logged."""

import asyncio
import json
import logging
import re
import time
from contextlib import asynccontextmanager

import httpx2
import pytest
from fastapi import WebSocket

from tingdao import app, keys
from tingdao.database import Database
from tingdao.errors import SetupError
from tingdao.keys import KeyStore
from tingdao.observe import JsonFormatter
from tingdao.rates import Rate
from tingdao.settings import Settings

PATH = "/api/v1/transcribe"
FREE = {"/health", "/api/health", "/ready", "/openapi.json", "/", "/index.html"} | {
    f"/{file.name}" for file in app.PAGE.iterdir()
}


@pytest.fixture
def add(tmp_path):
    """Make a key in the state folder of the clients."""
    database = Database(None, tmp_path / "state")
    store = KeyStore(database)
    yield store.add
    database.close()


@pytest.fixture
def revoke(tmp_path):
    return lambda name: KeyStore(Database(None, tmp_path / "state")).revoke(name)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(keys, "STALENESS", 0.0)


@pytest.fixture
def audio(recordings):
    return {"file": (recordings / "cards_001.flac").read_bytes()}


@pytest.fixture
def make_door(make_client):
    """A client of the door alone: nothing behind it is started, which is quicker."""

    def make(**sections):
        client = make_client(**sections)

        @asynccontextmanager
        async def session():
            transport = httpx2.ASGITransport(client.app, raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
                yield http

        client.session = session
        return client

    return make


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def code(answer):
    error = answer.json()["error"]
    return error if isinstance(error, str) else error["code"]


def inner(client):
    """The application behind the edge and what is around that."""
    found = client.app
    while not hasattr(found, "routes"):
        found = getattr(found, "_app", None) or found.app
    return found


def connect(client, path, headers=(), query="", extensions=None, peer="127.0.0.1"):
    """Open a WebSocket; what the service sent."""
    sent = []

    async def main():
        messages = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]

        async def receive():
            return messages.pop(0)

        async def send(message):
            sent.append(message)

        scope = {
            "type": "websocket",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(b"host", b"test"), *((name.encode(), value.encode()) for name, value in headers)],
            "client": (peer, 1),
            "server": ("test", 80),
            "scheme": "ws",
            "root_path": "",
            "subprotocols": [],
            "extensions": extensions or {},
        }
        await client.app(scope, receive, send)

    asyncio.run(main())
    return sent


def with_socket(client):
    @inner(client).websocket("/v1/realtime")
    async def realtime(socket: WebSocket):
        await socket.accept()
        await socket.close()

    return client


def flat(routes):
    for route in routes:
        included = getattr(route, "original_router", None)  # FastAPI keeps included routers as they are
        yield from flat(included.routes) if included else [route]


def paths_and_methods(client):
    for route in flat(inner(client).routes):
        path = re.sub(r"\{\w+(:\w+)?\}", "x", route.path)
        for method in sorted(getattr(route, "methods", None) or {"GET"}):
            yield path, method


def test_without_the_key_every_route_is_closed_but_the_free_ones(make_door, add):
    key = add("web")
    client = make_door()
    walked = set()
    for path, method in paths_and_methods(client):
        answer = client.request(method, path)
        walked.add(path)
        if path in FREE:
            # Each request here meets a service that has just begun to load its model.
            assert answer.status_code == (503 if path == "/ready" else 200), (method, path)
            continue
        assert answer.status_code == 401, (method, path)
        assert answer.headers["www-authenticate"] == "Bearer"
        if method != "HEAD":
            assert code(answer) == "missing_api_key"
        assert client.request(method, path, headers=bearer(key)).status_code != 401
    documented = {path.replace("{name}", "x") for path in client.get("/openapi.json").json()["paths"]}
    assert documented <= walked
    assert {PATH, "/v1/audio/transcriptions", "/v1/models", "/metrics", "/api/v1/tickets", "/admin/keys"} <= walked
    assert walked >= FREE


def test_what_only_looks_free_is_closed(make_door, add):
    add("web")
    door = make_door()
    for path in ("/health/", "http://test//health", "/nothing", "/health/../metrics", "/%68ealth/x", "/HEALTH",
                 "/index.html/", "/.env"):  # fmt: skip
        assert door.get(path).status_code == 401, path


def test_free_paths_are_for_reading(make_door, add):
    add("web")
    door = make_door()
    assert {path: door.post(path).status_code for path in FREE} == dict.fromkeys(FREE, 401)


def test_a_route_made_tomorrow_is_closed_too(make_door, add):
    add("web")
    client = make_door()
    inner(client).add_api_route("/brand/new", lambda: "secret")
    assert client.get("/brand/new").status_code == 401


def test_sockets_are_closed_too(make_door, add):
    key = add("web")
    client = with_socket(make_door())
    assert connect(client, "/v1/realtime") == [{"type": "websocket.close", "code": 1008, "reason": "missing_api_key"}]
    assert connect(client, "/v1/elsewhere")[0]["type"] == "websocket.close"
    assert connect(client, "/health")[0]["reason"] == "missing_api_key"
    for headers in (
        [("authorization", f"bearer {key}")],
        [("x-api-key", key)],
        [("sec-websocket-protocol", f"realtime, openai-insecure-api-key.{key}")],
    ):
        assert connect(client, "/v1/realtime", headers)[0]["type"] == "websocket.accept"


def test_a_refused_socket_is_answered_in_words_where_that_is_possible(make_door, add):
    add("web")
    start, body = connect(with_socket(make_door()), "/v1/realtime", extensions={"websocket.http.response": {}})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
    assert json.loads(body["body"])["error"]["code"] == "missing_api_key"


def test_sockets_of_pages_elsewhere_are_refused_before_they_are_accepted(make_door, add):
    key = add("web")
    client = with_socket(make_door(cors={"origins": ["https://app.example.com"]}))
    for origin, message in (
        ("https://evil.example.com", "websocket.close"),
        ("null", "websocket.close"),
        ("https://app.example.com", "websocket.accept"),
        ("http://test", "websocket.accept"),
    ):
        sent = connect(client, "/v1/realtime", [("authorization", f"Bearer {key}"), ("origin", origin)])
        assert sent[0]["type"] == message, origin


@pytest.mark.parametrize("headers", [lambda key: bearer(key), lambda key: {"authorization": f"bEARER  {key} "},
                                     lambda key: {"x-api-key": key},
                                     lambda key: {"authorization": "Basic abc", "x-api-key": key}])  # fmt: skip
def test_keys_are_taken_in_either_header(make_client, add, audio, headers):
    key = add("web")
    client = make_client()
    assert client.post(PATH, files=audio, headers=headers(key)).status_code == 200
    assert client.get("/v1/models", headers=headers(key)).status_code == 200


def test_wrong_keys_are_told_apart_in_each_dialect(make_door, add):
    add("web")
    client = make_door()
    key = keys.create()
    for shown, said in ((key, "no such key"), (key[:-1], "cut off"), ("sk-1", "not a key"), ("ek_abc", "Tickets are")):
        for path in (PATH, "/v1/audio/transcriptions"):
            answer = client.post(path, headers=bearer(shown))
            assert (answer.status_code, code(answer)) == (401, "invalid_api_key")
            assert said in answer.text
            assert shown not in answer.text


def test_a_refused_upload_is_not_read(make_door, add):
    add("web")
    client, taken = make_door(), 0

    async def main():
        nonlocal taken
        sent = []

        async def receive():
            nonlocal taken
            taken += 1
            return {"type": "http.request", "body": b"x" * 65536, "more_body": True}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": b"",
                 "headers": [(b"host", b"test")], "client": ("127.0.0.1", 1), "server": ("test", 80), "scheme": "http",
                 "http_version": "1.1", "root_path": ""}  # fmt: skip
        await client.app(scope, receive, send)
        assert sent[0]["status"] == 401

    asyncio.run(main())
    assert taken == 0


def test_revoked_and_expired_keys_are_refused(make_door, add, revoke):
    key = add("web")
    soon = add("soon", expires=time.time() + 1)
    client = make_door()
    assert client.get("/v1/models", headers=bearer(key)).status_code == 200
    revoke("web")
    assert "revoked" in client.get("/v1/models", headers=bearer(key)).text
    time.sleep(1.05)
    assert "expired" in client.get("/v1/models", headers=bearer(soon)).text


def test_a_key_in_the_address_is_refused_and_is_called_lost(make_door, add):
    key = add("web")
    client = make_door()
    for query in (f"key={key}", f"a=b&ticket={key}", f"x={key.replace('_', '%5F')}", key):
        answer = client.get(f"/v1/models?{query}", headers=bearer(key))
        assert (answer.status_code, code(answer)) == (400, "key_in_url")
        assert key not in answer.text


class TestAdmin:
    def test_takes_the_key_of_an_admin(self, make_door, add):
        user, admin = add("web"), add("ops", admin=True)
        client = make_door()
        for path in ("/metrics", "/admin/keys", "/admin/reload-model", "/admin"):
            answer = client.get(path, headers=bearer(user))
            assert (answer.status_code, code(answer)) == (403, "admin_only")
            assert client.get(path, headers=bearer(admin)).status_code in {200, 404, 405}

    def test_metrics_can_be_opened(self, make_door, add):
        add("web")
        client = make_door(server={"open_metrics": True})
        assert client.get("/metrics").status_code == 200
        assert client.get("/admin/keys").status_code == 401

    def test_sees_keys_and_their_use_but_never_the_keys(self, make_client, add, audio):
        user, admin = add("web", quota=Rate.quota("10h/day")), add("ops", admin=True)
        client = make_client()
        client.post(PATH, files=audio, headers=bearer(user))
        deadline = time.monotonic() + 5
        while not (web := client.get("/admin/keys", headers=bearer(admin)).json()["keys"][1])["requests_today"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert (web["name"], web["state"], web["quota"], web["requests_today"]) == ("web", "active", "10h/day", 1)
        assert web["seconds_today"] == pytest.approx(1.1, abs=0.01)
        text = client.get("/admin/keys", headers=bearer(admin)).text
        assert user[3:] not in text
        assert admin[3:] not in text

    def test_metrics_name_the_keys(self, make_client, add, audio):
        user, admin = add("web"), add("ops", admin=True)
        client = make_client()
        client.post(PATH, files=audio, headers=bearer(user))
        text = client.get("/metrics", headers=bearer(admin)).text
        assert 'tingdao_key_requests_total{key="web"} 1.0' in text
        assert float(re.search(r'tingdao_key_audio_seconds_total{key="web"} (.*)', text)[1]) == pytest.approx(
            1.1, abs=0.01
        )
        client.get("/v1/models")
        assert (
            'tingdao_refusals_total{code="missing_api_key"} 1.0' in client.get("/metrics", headers=bearer(admin)).text
        )


class TestModels:
    def test_other_models_are_refused_by_name(self, make_client, add, audio):
        key = add("web", models=frozenset({"another"}))
        client = make_client()
        answer = client.post(PATH, files=audio, headers=bearer(key))
        assert (answer.status_code, code(answer)) == (403, "model_not_allowed")
        form = {"model": "whisper-1"}
        answer = client.post("/v1/audio/transcriptions", files=audio, data=form, headers=bearer(key))
        assert (answer.status_code, code(answer)) == (403, "model_not_allowed")
        assert "'fake'" in answer.text

    def test_its_own_are_served_under_any_name(self, make_client, add, audio):
        key = add("web", models=frozenset({"fake"}))
        form = {"model": "whisper-1"}
        answer = make_client().post("/v1/audio/transcriptions", files=audio, data=form, headers=bearer(key))
        assert answer.status_code == 200


class TestQuota:
    def test_is_used_up_and_said(self, make_client, add, audio):
        key = add("web", quota=Rate.quota("2s/day"))
        client = make_client()
        assert client.post(PATH, files=audio, headers=bearer(key)).status_code == 200
        used = client.get("/api/v1/usage", headers=bearer(key)).json()["data"]
        assert (used["key"], used["requests"], used["quota_seconds"]) == ("web", 2, 2)
        assert used["seconds"] == pytest.approx(1.1, abs=0.01)
        assert used["left_seconds"] == pytest.approx(0.9, abs=0.01)
        for path, form in ((PATH, {}), ("/v1/audio/transcriptions", {"model": "default"})):
            answer = client.post(path, files=audio, data=form, headers=bearer(key))
            assert (answer.status_code, code(answer)) == (429, "quota_exceeded")
            assert 0 < int(answer.headers["retry-after"]) <= 86_400
            assert answer.headers["x-should-retry"] == "false"
        assert client.get("/api/v1/usage", headers=bearer(key)).status_code == 200

    def test_is_refused_at_the_door_once_nothing_is_left(self, make_client, add, engine, audio):
        key = add("web", quota=Rate.quota("1.095375s/day"))
        client = make_client(engine)
        assert client.post(PATH, files=audio, headers=bearer(key)).status_code == 200
        asked = len(engine.asked)
        answer = client.post(PATH, files=audio, headers=bearer(key))
        assert (answer.status_code, code(answer)) == (429, "quota_exceeded")
        assert len(engine.asked) == asked

    def test_the_settings_give_one_to_all(self, make_client, add, audio):
        key, own = add("web"), add("own", quota=Rate.quota("1h/day"))
        client = make_client(limits={"key_quota": "1s/day"})
        assert client.post(PATH, files=audio, headers=bearer(key)).status_code == 429
        assert client.post(PATH, files=audio, headers=bearer(own)).status_code == 200

    def test_what_failed_is_given_back(self, make_client, add, engine, audio):
        key = add("web", quota=Rate.quota("5s/day"))
        client = make_client(engine)
        engine.fail = RuntimeError("broken")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logging.getLogger("tingdao"), "disabled", True)
            assert client.post(PATH, files=audio, headers=bearer(key)).status_code >= 500
        assert client.get("/api/v1/usage", headers=bearer(key)).json()["data"]["left_seconds"] == 5


class TestRates:
    def test_requests_of_a_key(self, make_door, add):
        key, other = add("web", rate=Rate.requests("3/minute")), add("other")
        client = make_door()
        for left in (2, 1, 0):
            answer = client.get("/v1/models", headers=bearer(key))
            assert answer.status_code == 200
            assert answer.headers["ratelimit-policy"] == '"requests";q=3;w=60'
            assert re.fullmatch(rf'"requests";r={left};t=\d+', answer.headers["ratelimit"])
            assert answer.headers["x-ratelimit-limit-requests"] == "3"
            assert answer.headers["x-ratelimit-remaining-requests"] == str(left)
            assert re.fullmatch(r"\d+s", answer.headers["x-ratelimit-reset-requests"])
        for path in ("/v1/models", "/api/v1/usage"):
            answer = client.get(path, headers=bearer(key))
            assert (answer.status_code, code(answer)) == (429, "rate_limit_exceeded")
            assert 0 < int(answer.headers["retry-after"]) <= 20
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        answer = client.get("/v1/models", headers=bearer(other))
        assert answer.status_code == 200
        assert "ratelimit" not in answer.headers

    def test_audio_of_a_key_is_paid_by_waiting(self, make_client, add, audio):
        key = add("web", audio_rate=Rate.audio("1s/minute"))
        client = make_client()
        assert client.post(PATH, files=audio, headers=bearer(key)).status_code == 200
        answer = client.post(PATH, files=audio, headers=bearer(key))
        assert (answer.status_code, code(answer)) == (429, "rate_limit_exceeded")
        assert 60 < int(answer.headers["retry-after"]) < 70
        assert answer.headers["ratelimit-policy"] == '"audio-seconds";q=1;w=60;qu="audio-seconds"'
        assert client.get("/v1/models", headers=bearer(key)).status_code == 200

    def test_of_an_address_come_before_the_key(self, make_door, add):
        add("web")
        client = make_door(limits={"address_rate": "2/minute"})
        assert [client.get("/v1/models").status_code for _ in range(3)] == [401, 401, 429]
        assert client.get("/health").status_code == 200

    def test_of_an_address_hold_without_keys_too(self, make_client, audio):
        client = make_client(limits={"address_audio_rate": "1s/minute"})
        assert [client.post(PATH, files=audio).status_code for _ in range(2)] == [200, 429]

    def test_addresses_are_believed_from_trusted_proxies_only(self, make_door):
        def statuses(client, forwarded):
            return [client.get("/v1/models", headers={"x-forwarded-for": each}).status_code for each in forwarded]

        limits = {"address_rate": "1/minute"}
        assert statuses(make_door(limits=limits), ["1.1.1.1", "2.2.2.2"]) == [200, 429]
        behind = make_door(limits=limits, server={"trusted_proxies": ["127.0.0.0/8", "10.0.0.1"]})
        assert statuses(behind, ["1.1.1.1", "2.2.2.2", "2.2.2.2"]) == [200, 200, 429]
        # What the client itself wrote is to the left of what the proxies saw.
        assert statuses(behind, ["9.9.9.9, 3.3.3.3", "8.8.8.8, 3.3.3.3, 10.0.0.1"]) == [200, 429]

    def test_an_ipv6_network_is_one_customer(self, make_door):
        client = with_socket(make_door(limits={"address_rate": "1/minute"}))
        peers = ["2001:db8::1", "2001:db8::2:3", "2001:db8:0:1::1", "::ffff:1.2.3.4", "1.2.3.4"]
        sent = [connect(client, "/v1/realtime", peer=peer)[0]["type"].partition(".")[2] for peer in peers]
        assert sent == ["accept", "close", "accept", "accept", "close"]


class TestTickets:
    def test_open_sockets_and_reading(self, make_door, add):
        key = add("web")
        client = with_socket(make_door())
        data = client.post("/api/v1/tickets", headers=bearer(key)).json()["data"]
        ticket = data["ticket"]
        assert data["expires_in"] == 60
        assert data["expires_at"] == pytest.approx(time.time() + 60, abs=5)
        assert connect(client, "/v1/realtime", query=f"ticket={ticket}")[0]["type"] == "websocket.accept"
        assert connect(client, "/v1/realtime", [("authorization", f"Bearer {ticket}")])[0]["type"] == "websocket.accept"
        subprotocol = [("sec-websocket-protocol", f"realtime, openai-insecure-api-key.{ticket}")]
        assert connect(client, "/v1/realtime", subprotocol)[0]["type"] == "websocket.accept"
        assert client.get(f"/v1/models?ticket={ticket}").status_code == 200
        assert client.get(f"/api/v1/usage?ticket={ticket}").json()["data"]["key"] == "web"

    def test_open_nothing_else(self, make_client, add, audio):
        key = add("ops", admin=True)
        client = make_client()
        ticket = client.post("/api/v1/tickets", headers=bearer(key)).json()["data"]["ticket"]
        assert client.post(f"/api/v1/tickets?ticket={ticket}").status_code == 401
        assert client.post(f"{PATH}?ticket={ticket}", files=audio).status_code == 401
        assert client.post(PATH, files=audio, headers=bearer(ticket)).status_code == 401
        assert client.get(f"/admin/keys?ticket={ticket}").status_code == 403
        assert client.get(f"/metrics?ticket={ticket}").status_code == 403
        assert client.get("/v1/models?ticket=none").status_code == 401

    def test_end_with_their_key(self, make_door, add, revoke):
        key = add("web")
        client = make_door()
        ticket = client.post("/api/v1/tickets", headers=bearer(key)).json()["data"]["ticket"]
        revoke("web")
        answer = client.get(f"/v1/models?ticket={ticket}")
        assert (answer.status_code, "revoked" in answer.text) == (401, True)

    def test_are_not_needed_without_keys(self, client):
        assert client.post("/api/v1/tickets").json()["data"] == {"ticket": None, "expires_in": None, "expires_at": None}


class TestWithoutKeys:
    def test_this_machine_may_do_everything(self, client, audio):
        assert client.post(PATH, files=audio).status_code == 200
        assert client.post(PATH, files=audio, headers=bearer("none")).status_code == 200
        assert client.get("/metrics").status_code == 200
        assert client.get("/admin/keys").json() == {"keys": []}

    def test_who_comes_through_a_proxy_is_no_operator(self, client):
        for header in ("x-forwarded-for", "forwarded", "x-real-ip"):
            assert client.get("/admin/keys", headers={header: "1.1.1.1"}).status_code == 403
        assert client.get("/v1/models", headers={"x-forwarded-for": "1.1.1.1"}).status_code == 200

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "speech.example.com", ""])
    def test_others_are_not_served_unless_that_is_said(self, make_door, add, host):
        with pytest.raises(SetupError, match="tingdao keys add NAME"):
            make_door(server={"host": host})
        client = make_door(server={"host": host, "keyless": True})
        assert client.get("/v1/models").status_code == 200
        assert client.get("/admin/keys").status_code == 403
        assert client.get("/metrics").status_code == 403
        key = add("web")
        for keyless in (True, False):
            client = make_door(server={"host": host, "keyless": keyless})
            assert client.get("/v1/models").status_code == 401
            assert client.get("/v1/models", headers=bearer(key)).status_code == 200

    def test_loopback_is_this_machine(self, make_door, caplog):
        for host in ("127.0.0.1", "127.0.0.5", "localhost", "::1"):
            caplog.clear()
            make_door(server={"host": host})
            assert [record.serves for record in caplog.records if hasattr(record, "serves")] == ["this machine only"]

    def test_the_first_key_closes_the_door_of_a_running_service(self, client, add, revoke):
        assert client.get("/v1/models").status_code == 200
        key = add("web")
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers=bearer(key)).status_code == 200
        revoke("web")
        assert client.get("/v1/models").status_code == 401


class TestHostsAndOrigins:
    def test_names_that_nobody_can_register_are_taken(self, make_door):
        door = make_door()
        for host in ("127.0.0.1:8000", "localhost:8000", "[::1]:8000", "test", "tingdao:80", "a.localhost"):
            assert door.get("/v1/models", headers={"host": host}).status_code == 200, host

    def test_names_led_here_are_refused(self, make_door):
        door = make_door()
        for host in ("evil.example.com", "evil.example.com:8000", "127.0.0.1.evil.com", "EVIL.COM."):
            answer = door.get("/v1/models", headers={"host": host})
            assert (answer.status_code, code(answer)) == (403, "host_not_allowed"), host
            assert door.get("/health", headers={"host": host}).status_code == 200

    def test_only_the_names_that_are_set(self, make_door, add):
        key = add("web")
        client = make_door(server={"allowed_hosts": ["speech.example.com", "*.internal"]})
        for host, status in (("speech.example.com:443", 200), ("SPEECH.example.com", 200), ("a.b.internal", 200),
                             ("example.com", 403), ("internal", 403), ("xspeech.example.com", 403),
                             ("127.0.0.1", 403)):  # fmt: skip
            assert client.get("/v1/models", headers={"host": host, **bearer(key)}).status_code == status, host

    def test_with_keys_any_name_will_do(self, make_door, add):
        key = add("web")
        assert make_door().get("/v1/models", headers={"host": "a.example.com", **bearer(key)}).status_code == 200

    def test_pages_elsewhere_cannot_make_a_visitor_upload(self, make_door):
        door = make_door()
        for headers, let_in in (
            ({"origin": "http://test"}, True),
            ({"origin": "https://test"}, True),
            ({"origin": "http://evil.com"}, False),
            ({"origin": "http://test:99"}, False),
            ({"origin": "null"}, False),
            ({"origin": "http://evil.com", "sec-fetch-site": "cross-site"}, False),
            ({"origin": "https://speech.example.com", "sec-fetch-site": "same-origin"}, True),
        ):
            answer = door.post(PATH, headers=headers)
            assert code(answer) == ("malformed_upload" if let_in else "origin_not_allowed"), headers

    def test_pages_that_are_named_may_call_and_read(self, make_client, add, audio):
        key = add("web", rate=Rate.requests("9/minute"))
        client = make_client(cors={"origins": ["https://app.example.com"]})
        origin = {"origin": "https://app.example.com"}
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        preflight = client.request("OPTIONS", PATH, headers={**origin, **asked})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://app.example.com"
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        answer = client.post(PATH, files=audio, headers={**origin, **bearer(key)})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
        assert "x-ratelimit-remaining-requests" in answer.headers["access-control-expose-headers"]
        refused = client.post(PATH, files=audio, headers=origin)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://app.example.com"
        evil = client.request("OPTIONS", PATH, headers={"origin": "https://evil.com", **asked})
        assert evil.status_code == 400
        assert "access-control-allow-origin" not in evil.headers

    def test_any_page_never_comes_with_credentials(self):
        with pytest.raises(ValueError, match="credentials cannot go with"):
            Settings(cors={"origins": ["*"], "credentials": True})
        assert Settings(cors={"origins": ["*"]}).cors.origins == ["*"]
        for wrong in ("app.example.com", "https://app.example.com/", "https://*.example.com"):
            with pytest.raises(ValueError, match="not an origin"):
                Settings(cors={"origins": [wrong]})


def test_no_key_or_ticket_comes_into_the_log(make_client, add, audio, caplog):
    key, admin = add("web"), add("ops", admin=True)
    client = with_socket(make_client())
    with caplog.at_level(logging.DEBUG):
        ticket = client.post("/api/v1/tickets", headers=bearer(key)).json()["data"]["ticket"]
        client.post(PATH, files=audio, headers=bearer(key))
        client.post(PATH, files=audio, headers={"x-api-key": admin})
        client.get("/admin/keys", headers=bearer(admin))
        client.get(f"/v1/models?key={key}")
        client.get(f"/{key}/{ticket}", headers=bearer(key))
        client.get(f"/v1/models/{admin}", headers=bearer(key))
        client.get(f"/v1/models?ticket={ticket}")
        client.post(PATH, headers=bearer(key[:-1]))
        connect(client, "/v1/realtime", query=f"ticket={ticket}")
        connect(client, f"/{key}", [("authorization", f"Bearer {key}")])
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert [json.loads(line)["key"] for line in lines if '"request"' in line][:2] == ["web", "web"]
    for secret in (key, admin, ticket):
        for part in (secret, secret[3:], secret[3:20]):
            assert not [line for line in lines if part in line]
