"""Hugging Face and ModelScope as one small server, which breaks connections and lies when it is told to."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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


@contextmanager
def serving():
    """A hub that runs within the block: its class, whose attributes steer it, and its address."""
    kind = type("Handler", (FakeHub,), {"breaks": [], "asked": [], "lie": False})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield kind, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
