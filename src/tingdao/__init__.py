"""Tingdao (听到): the speech service for Qwen3-ASR."""

import os
import sys
from typing import Any, cast

__version__ = "0.1.0"

# Libraries that report their use unless they are told not to, before they are first imported. What is spoken here is
# private, and so is that it is: nothing goes out but what the settings say. An operator's own word stays as it is.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# OpenVINO reports each import, and has a stand-in for where the package that does so is missing.
sys.modules.setdefault("openvino_telemetry", cast("Any", None))
