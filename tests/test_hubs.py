"""Fetching from both hubs, against a small server that speaks as they do, breaks connections and lies."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tingdao.engines import hubs
from tingdao.errors import SetupError

CONTENT = {
    "config.json": b'{"model_type": "small"}',
    "model-00001-of-00002.safetensors": bytes(range(256)) * 8192,
    "model-00002-of-00002.safetensors": bytes(reversed(range(256))) * 4096,
    "merges.txt": b"a b\n",
    "README.md": b"not wanted",
    "picture.png": b"not wanted either",
}
REPOSITORY = "Small/Model"
COMMIT = "c0ffee"


class FakeHub(BaseHTTPRequestHandler):
    """Both hubs at once. `breaks`: after how many bytes the next answers end; `asked`: what was asked."""

    breaks: list[int]
    asked: list[tuple[str, str | None]]
    lie: bool

    def do_GET(self):
        self.asked.append((self.path, self.headers.get("Range")))
        path = self.path
        if path in (f"/api/models/{REPOSITORY}/revision/main", f"/api/models/{REPOSITORY}/revision/v1"):
            self.send_json({"sha": COMMIT})
        elif path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
            self.send_json([*(self.entry(name, data) for name, data in CONTENT.items()), {"type": "directory"}])
        elif path.startswith(f"/api/v1/models/{REPOSITORY}/repo/files?Revision=master"):
            files = [
                {"Path": name, "Type": "blob", "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest()}
                for name, data in CONTENT.items()
            ]
            self.send_json({"Code": 200, "Data": {"Files": [*files, {"Path": "assets", "Type": "tree"}]}})
        elif path.startswith((f"/{REPOSITORY}/resolve/{COMMIT}/", f"/models/{REPOSITORY}/resolve/master/")):
            self.send_file(CONTENT[path.rpartition("/")[2]])
        else:
            self.send_error(404)

    def entry(self, name, data):
        if name.endswith(".safetensors"):
            digest = hashlib.sha256(data).hexdigest()
            return {"type": "file", "path": name, "size": len(data), "oid": "x", "lfs": {"oid": digest}}
        git = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        return {"type": "file", "path": name, "size": len(data), "oid": git}

    def send_json(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, data):
        if self.lie:
            data = b"x" * len(data)
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        stop = self.breaks.pop() if self.breaks and len(data) > 10_000 else len(data)
        self.wfile.write(data[start : start + stop])
        if stop < len(data) - start:
            self.wfile.flush()
            self.connection.close()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    kind = type("Handler", (FakeHub,), {"breaks": [], "asked": [], "lie": False})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", address)
    yield kind
    server.shutdown()
    server.server_close()
    thread.join()


WANTED = {name: data for name, data in CONTENT.items() if not name.endswith((".md", ".png"))}


def there(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != hubs.RECORD}


@pytest.mark.parametrize(("name", "revision"), [("hf", COMMIT), ("modelscope", "master")])
def test_all_files_of_the_model_and_nothing_else(hub, tmp_path, name, revision):
    record = hubs.download(name, REPOSITORY, tmp_path / "m")
    assert there(tmp_path / "m") == WANTED
    assert (record.repository, record.revision) == (REPOSITORY, revision)
    assert hubs.verify(tmp_path / "m") == []


def test_a_revision_can_be_pinned(hub, tmp_path):
    hubs.download("hf", REPOSITORY, tmp_path / "m", revision="v1")
    assert (f"/api/models/{REPOSITORY}/revision/v1", None) in hub.asked


@pytest.mark.parametrize("name", ["hf", "modelscope"])
def test_a_broken_download_goes_on_where_it_stopped(hub, tmp_path, name):
    hub.breaks = [1_000_000, 500_000]
    hubs.download(name, REPOSITORY, tmp_path / "m")
    assert there(tmp_path / "m") == WANTED
    ranges = [asked for _, asked in hub.asked if asked]
    assert len(ranges) == 2
    assert all(asked != "bytes=0-" for asked in ranges)


def test_what_an_earlier_run_left_is_used(hub, tmp_path):
    first = "model-00001-of-00002.safetensors"
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / f"{first}.partial").write_bytes(CONTENT[first][:1_500_000])
    (tmp_path / "m" / "merges.txt").write_bytes(CONTENT["merges.txt"])
    hubs.download("hf", REPOSITORY, tmp_path / "m")
    assert there(tmp_path / "m") == WANTED
    assert (f"/{REPOSITORY}/resolve/{COMMIT}/{first}", "bytes=1500000-") in hub.asked
    assert not any(path.endswith("merges.txt") for path, _ in hub.asked)


def test_other_content_than_announced_is_thrown_away(hub, tmp_path):
    hub.lie = True
    with pytest.raises(SetupError, match="another hash"):
        hubs.download("hf", REPOSITORY, tmp_path / "m")
    assert there(tmp_path / "m") == {}


def test_what_does_not_exist_is_said(hub, tmp_path):
    with pytest.raises(SetupError, match="Nobody/Model"):
        hubs.download("hf", "Nobody/Model", tmp_path / "m")


@pytest.mark.parametrize(("name", "other"), [("hf", "modelscope"), ("modelscope", "--from hf")])
def test_out_of_reach_names_the_other_hub(monkeypatch, tmp_path, name, other):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SetupError, match=other):
        hubs.download(name, REPOSITORY, tmp_path / "m")


def test_a_folder_is_verified_against_its_record(hub, tmp_path):
    assert hubs.verify(tmp_path) is None
    hubs.download("modelscope", REPOSITORY, tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "m" / "merges.txt").unlink()
    wrong = sorted(hubs.verify(tmp_path / "m"))
    assert [problem.split(" ")[0] for problem in wrong] == ["config.json", "merges.txt"]
