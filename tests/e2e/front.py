"""nginx as it is shipped, in front of instances."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import httpx2

from e2e.conftest import Server, free_port

CONFIG = Path(__file__).parents[2] / "deploy/nginx.conf"


class Front:
    """nginx on a free port of the loopback; only addresses, ports and temporary paths differ from the shipped file."""

    def __init__(self, folder: Path, instances: list[Server]) -> None:
        folder.mkdir(exist_ok=True)
        self.log = folder / "error.log"
        port = free_port()
        text = CONFIG.read_text()
        for name, instance in zip(("one", "two"), instances, strict=True):
            assert f"server {name}:8000" in text
            text = text.replace(f"server {name}:8000", f"server {instance.url.removeprefix('http://')}")
        text = text.replace("listen 8080;", f"listen 127.0.0.1:{port};").replace("/tmp/", f"{folder}/")
        config = folder / "nginx.conf"
        config.write_text(f"daemon off;\nerror_log {self.log};\n{text}".replace("http {", "http {\naccess_log off;", 1))
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen([nginx, "-c", str(config), "-p", str(folder)], stderr=subprocess.DEVNULL)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            try:
                httpx2.get(f"{self.url}/health")
                return
            except httpx2.TransportError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
