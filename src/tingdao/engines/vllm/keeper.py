"""Runs a command that must not outlive whoever wants it.

    python keeper.py GRACE COMMAND…

    service ── pipe ──► keeper ─┬─► vllm serve ─► its engine, which holds the GPU's memory
                                └── one process group, which the keeper leads

The other end of the pipe at standard input is the service's alone, so it closes when the service lets go of it and when
the service dies, however it dies. Then the whole group gets SIGTERM, and SIGKILL as soon as the command has ended or
after GRACE seconds. When the command ends by itself the keeper ends with the same code, and the service ends what the
command left behind.

It is run by its path and needs the standard library only, so that it starts at once and takes little.
"""

import os
import signal
import subprocess
import sys
import threading
import time


def main() -> None:
    """Run the command to its end, or to that of the pipe."""
    grace, command = float(sys.argv[1]), sys.argv[2:]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Meant for the command. A handler, since the command would inherit SIG_IGN.
        signal.signal(number, lambda *_: None)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603  the operator's own command
    gone = threading.Event()
    threading.Thread(target=_end_with_owner, args=(gone, grace), daemon=True).start()
    code = process.wait()
    if gone.is_set():
        os.killpg(0, signal.SIGKILL)
    sys.exit(code if code >= 0 else 128 - code)


def _end_with_owner(gone: threading.Event, grace: float) -> None:
    while os.read(0, 1024):
        pass
    gone.set()
    os.killpg(0, signal.SIGTERM)
    time.sleep(grace)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
