"""Stands in for the program `vllm`: takes its time, says how far it is, then serves as `upstream.Double`.

`FAKE_VLLM` is JSON that says what goes wrong; see `DEFAULTS`. `program` writes what is started in its stead.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from upstream import Double

DEFAULTS = {
    "delay": 0.3,  # seconds until it listens
    "crash": None,  # ends with this code instead of listening
    "stubborn": False,  # it and its engine stay when they are told to end
    "note": None,  # folder: its arguments, environment and process ids are written there
    "crashing_device": None,  # only there it crashes
}


def program(folder: Path) -> Path:
    """A program that is this one."""
    file = folder / "vllm"
    file.write_text(f'#!/bin/sh\nexec {sys.executable} -S {Path(__file__).resolve()} "$@"\n')
    file.chmod(0o755)
    return file


async def main():
    wanted = DEFAULTS | json.loads(os.environ.get("FAKE_VLLM", "{}"))
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write("INFO 07-01 10:00:00 [importing.py:44] Triton is there\n0.32.0\n")
        return
    given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
    if "--wrong" in sys.argv:
        sys.stderr.write("usage: vllm serve [model_tag] [options]\nvllm: error: unrecognized arguments: --wrong\n")
        sys.exit(2)
    if wanted["stubborn"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Its engine: a process of its own, which outlives it when it is killed.
    engine = subprocess.Popen(["sleep", "600"])  # noqa: ASYNC220  it takes over how SIGTERM is taken
    if wanted["note"]:
        noted = {"pid": os.getpid(), "engine": engine.pid, "arguments": sys.argv[1:], "environment": dict(os.environ)}
        note = Path(wanted["note"]) / f"{os.getpid()}.json"
        note.with_suffix(".part").write_text(json.dumps(noted))
        note.with_suffix(".part").rename(note)
    sys.stderr.write(
        "(APIServer pid=7) INFO 07-01 10:00:00 [api_server.py:12] vLLM API server\n"
        "\rLoading safetensors checkpoint shards:  50% Completed | 1/2\r"
    )
    sys.stderr.flush()
    await asyncio.sleep(wanted["delay"])
    device = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted["crash"] is not None and wanted["crashing_device"] in {None, device}:
        sys.stderr.write(
            "(EngineCore pid=8) ERROR 07-01 10:00:01 [a.py:9] Traceback (most recent call last):\n"
            "(EngineCore pid=8) ERROR 07-01 10:00:01 [a.py:9] ValueError: Free memory on device cuda:0 is too little\n"
            "(APIServer pid=7) RuntimeError: Engine core initialization failed. See root cause above.\n"
        )
        sys.exit(wanted["crash"])
    key = os.environ.get("VLLM_API_KEY")
    await Double(model=given["--served-model-name"], key=key).start(int(given["--port"]))
    await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main())
