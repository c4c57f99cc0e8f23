"""What the generator cannot know: recordings, and the names of the models. Loaded by schemathesis."""

from __future__ import annotations

import os
from pathlib import Path

import schemathesis
from hypothesis import strategies

RECORDINGS = Path(__file__).parent.parent / "recordings"
SHORT = [file.read_bytes() for file in sorted(RECORDINGS.glob("*.flac")) if file.stat().st_size < 60_000]
MODELS = ["default", os.environ["MODEL"], "whisper-1"]

schemathesis.openapi.format("binary", strategies.sampled_from(SHORT) | strategies.binary(max_size=2000))


@schemathesis.hook
def map_body(context, body):
    """Forms with a real recording get a model that exists, and keep every third of their other fields.

    Of all made-up languages, formats and numbers together, one would always be wrong.
    """
    if not isinstance(body, dict) or body.get("file") not in SHORT:
        return body
    kept = {name: value for name, value in body.items() if name == "file" or len(f"{name}{value}") % 3 == 0}
    return kept | {"model": MODELS[len(kept) % len(MODELS)]}


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    """Half of the models asked for exist."""
    if path_parameters and len(name := str(path_parameters.get("name", ""))) % 2:
        path_parameters["name"] = MODELS[len(name) % len(MODELS)]
    return path_parameters
