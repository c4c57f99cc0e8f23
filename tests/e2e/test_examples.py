"""The examples of `docs/clients.md`, run as they stand but for the service's address."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.conftest import JAVASCRIPT

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = [
    (language, code)
    for language, block in re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs/clients.md").read_text(), re.DOTALL)
    for code in (block.split("\n\n") if language == "sh" else [block])
]
# Those with recordings elsewhere, with packages that are not ours, or for a page in a browser.
NOT_HERE = ("example.com", "new FormData")
HERE = [(language, code) for language, code in EXAMPLES if not any(sign in code for sign in NOT_HERE)]


def test_examples_are_found():
    assert [language for language, _ in HERE] == ["sh", "sh", "python", "js"]
    assert len(EXAMPLES) == len(HERE) + 3


@pytest.mark.timeout(660)
@pytest.mark.parametrize(("language", "code"), HERE, ids=[f"{language}{at}" for at, (language, _) in enumerate(HERE)])
def test_example(server, packages, language, code):
    code = code.replace("http://127.0.0.1:8000", server.url)
    script = JAVASCRIPT / "node_modules/example.mjs"  # where it finds the package
    script.write_text(code)
    command = {"sh": ["bash", "-c", code], "python": [sys.executable, "-W", "ignore", "-c", code]}
    ran = subprocess.run(
        command.get(language, ["node", str(script)]), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "ask not" in ran.stdout.replace(",", ""), ran.stdout
