"""vLLM servers come and go with the settings of a running service, and its callers notice nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import httpx2

from conftest import RECORDINGS
from e2e.conftest import Server
from e2e.test_scale_out import CALLERS, SAID, Upstream, call_for

SECONDS = 8.0


def write(config, *upstreams):
    """Settings that name servers."""
    config.write_text(f"[vllm]\nupstreams = {json.dumps([each.url for each in upstreams])}\n")


def test_one_comes_and_one_goes_by_sighup_under_load(tmp_path):
    kept, going, coming = parts = [Upstream(40), Upstream(40), Upstream(40)]
    config = tmp_path / "tingdao.toml"
    write(config, kept, going)
    server = Server(tmp_path / "state", TINGDAO_CONFIG=str(config))
    try:
        server.wait_until_ready()
        audio = (RECORDINGS / "ljspeech_LJ002-0020.flac").read_bytes()

        async def main():
            load = asyncio.create_task(call_for(server.url, audio, SECONDS))
            await asyncio.sleep(SECONDS / 3)
            write(config, kept, coming)
            os.kill(server.process.pid, signal.SIGHUP)
            await asyncio.to_thread(server.wait_for, "settings applied")
            applied = time.monotonic()
            gone = going.audio_done()
            return await load, applied, gone

        answers, applied, gone = asyncio.run(main())
        assert {said for _, said in answers} == {SAID}
        assert len([at for at, _ in answers if at > applied]) > CALLERS
        assert going.audio_done() - gone < 60  # what it had
        assert coming.audio_done() > 20
        status = httpx2.get(f"{server.url}/admin/status").json()
        assert [each["server"] for each in status["models"][0]["servers"]] == [kept.url, coming.url]
        # By hand, too: one is drained, and the other one answers.
        command = [sys.executable, "-m", "tingdao.cli", "servers", "--url", server.url]
        drained = subprocess.run([*command, "drain", kept.url], capture_output=True, text=True, check=True)
        assert drained.stdout.startswith(f"{kept.url} is drained.\nqwen3-asr can answer.\n")
        before = kept.audio_done()
        assert {said for _, said in asyncio.run(call_for(server.url, audio, 1.0))} == {SAID}
        assert kept.audio_done() == before
        assert not [line for line in server.lines() if line["level"] == "error"]
    finally:
        server.stop()
        for part in parts:
            part.stop()
