"""Ten hours in one piece: constant memory, and times that are right at the end."""

from __future__ import annotations

import re

import av
import httpx2
import numpy as np
import pytest
from conftest import RECORDINGS
from e2e.conftest import Server
from faster_whisper.audio import decode_audio
