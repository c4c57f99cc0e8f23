"""A short recording that needs no decoding here: mono at 16 kHz, WAV or FLAC, whole, and as long as it says.

A server decodes what passes, and nobody here has heard it, so nothing is taken on trust. A WAV must be made of known
chunks that fill the file to its last byte. A FLAC must be frames with the right checksums from the first to the last,
in the order and of the length that its header declares; what else looks like a frame could be read as one. Whatever is
not certain is not passed: the decoder knows more formats, and what is wrong with each. This reads numbers at known
places, in time that grows with the file, and runs no decoder.

Sources: Multimedia Programming Interface 1.0 (RIFF WAVE); RFC 9639 (FLAC).
"""

from __future__ import annotations

import os
import re
import struct
from itertools import pairwise
from typing import BinaryIO, Final, Literal

import numpy as np
from fastcrc import crc8, crc16

from tingdao.types import SAMPLE_RATE, Sent

SHORTEST: Final = 0.5
"""Seconds. Shorter recordings are filled up with silence before they are recognised."""
FASTEST: Final = 4 * SAMPLE_RATE
"""Bytes a second: 32-bit samples."""
HEADS: Final = 64 * 1024
"""Bytes that may come on top, such as a cover picture."""
QUIET: Final = 1 / 64
"""A WAV that is nowhere louder than this (of full scale) may hold no speech, and models hear voices in silence."""
EMPTY: Final = 2.0
"""And so may a FLAC with fewer bits a sample than this."""

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
SUBFORMAT: Final = bytes.fromhex("000000001000800000aa00389b71")
"""What follows the two bytes of the format in the GUID of an extensible one."""
CHUNKS: Final = frozenset({b"fact", b"PEAK", b"JUNK", b"bext"})
LISTS: Final = frozenset({b"INFO", b"adtl"})
"""Chunks of a WAV, and lists in it, that do not change how it sounds."""
MOST_CHUNKS: Final = 16

SYNC: Final = re.compile(rb"\xff[\xf8\xf9]")
SHORTEST_BLOCK: Final = 256
"""Samples to a frame of FLAC, at least: more frames take longer to check."""
MOST_BLOCKS: Final = 64
"""Blocks of metadata."""
BLOCKS: Final = {1: 192, **{code: 576 << code - 2 for code in range(2, 6)}, **{n: 256 << n - 8 for n in range(8, 16)}}
"""Samples to a frame by their code; 6 and 7 are followed by the number in 8 or 16 bits."""
BLOCK_BYTES: Final = (0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0)
RATE_BYTES: Final = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 0)
"""What follows in the header, by the codes of block and rate."""
NUMBER_BYTES: Final = (*[1] * 128, *[0] * 64, *[2] * 32, *[3] * 16, *[4] * 8, *[5] * 4, 6, 6, 7, 0)
"""Of a number coded as in UTF-8, by the first; 0 is none."""
SIZES: Final = {8: 1, 12: 2, 16: 4, 20: 5, 24: 6}
"""Codes of the bits a sample."""


def sent(source: BinaryIO, limit: float) -> Sent | None:
    """A recording of up to `limit` seconds as it came, or None where it has to be decoded.

    source: an open file; where it is read next is not kept. A recording of 30 s takes less than 10 ms.
    """
    size = source.seek(0, os.SEEK_END)
    if size > limit * FASTEST + HEADS:
        return None
    source.seek(0)
    data = source.read()
    form: Literal["wav", "flac"] = "wav" if data.startswith(b"RIFF") else "flac"
    samples = _wav(data) if form == "wav" else _flac(data)
    if samples is None or not SHORTEST <= samples / SAMPLE_RATE <= limit:
        return None
    return Sent(data, form, samples / SAMPLE_RATE)


def _wav(data: bytes) -> int | None:
    """Samples of a WAV that is certain and not silent."""
    if data[8:12] != b"WAVE" or int.from_bytes(data[4:8], "little") != len(data) - 8:
        return None
    form, audio, at = None, None, 12
    for _ in range(MOST_CHUNKS):
        if at >= len(data):
            break
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body, at = memoryview(data)[at + 8 : at + 8 + size], at + 8 + size + size % 2
        if len(body) < size:
            return None
        if name == b"fmt " and form is None:
            form = _format(bytes(body))
        elif name == b"data" and form and audio is None:
            audio = body
        elif name not in CHUNKS and not (name == b"LIST" and bytes(body[:4]) in LISTS):
            return None
    # What is odd in length is filled up, which some forget at the end.
    if not 0 <= at - len(data) <= 1 or not form or not audio or len(audio) % (form[1] // 8):
        return None
    kind, bits = form
    return len(audio) * 8 // bits if _is_loud(audio, kind, bits) else None


def _format(head: bytes) -> tuple[int, int] | None:
    """(PCM or FLOAT, bits a sample) of the chunk `fmt `, when it is one that passes."""
    if len(head) < 16:
        return None
    kind, channels, rate, per_second, width, bits = struct.unpack_from("<HHIIHH", head)
    if kind == EXTENSIBLE and len(head) == 40 and head[26:] == SUBFORMAT and head[18:20] == head[14:16]:
        kind = int.from_bytes(head[24:26], "little")
    elif len(head) > 18:
        return None
    if (channels, rate, per_second, width) != (1, SAMPLE_RATE, SAMPLE_RATE * bits // 8, bits // 8):
        return None
    return (kind, bits) if (kind, bits) in {(PCM, 16), (PCM, 24), (FLOAT, 32)} else None


def _is_loud(audio: memoryview, kind: int, bits: int) -> bool:
    """Whether samples are somewhere louder than `QUIET`, and nowhere past full scale."""
    if kind == FLOAT:
        levels, full = np.frombuffer(audio, "<f4"), 1.0
    elif bits == 16:
        levels, full = np.frombuffer(audio, "<i2"), 32_768.0
    else:
        levels, full = np.frombuffer(audio, np.int8)[2::3], 128.0  # the upper byte tells enough
    low, high = float(levels.min()) / full, float(levels.max()) / full
    return low >= -1.0 and high <= 1.0 and max(-low, high) > QUIET  # not for NaN either


def _flac(data: bytes) -> int | None:
    """Samples of a FLAC that is certain and not silent."""
    if len(data) < 42 or data[:4] != b"fLaC" or data[4] & 0x7F or data[5:8] != b"\x00\x00\x22":
        return None
    shortest, longest = struct.unpack_from(">HH", data, 8)
    facts = int.from_bytes(data[18:26], "big")
    rate, channels, bits, samples = facts >> 44, (facts >> 41 & 7) + 1, (facts >> 36 & 31) + 1, facts & (1 << 36) - 1
    if (rate, channels) != (SAMPLE_RATE, 1) or bits not in SIZES or not samples:
        return None
    if shortest != longest or longest < SHORTEST_BLOCK:
        return None
    begin = _first_frame(data)
    if begin is None or (len(data) - begin) * 8 < samples * EMPTY:
        return None
    starts = _frames(data, begin, bits, longest, samples)
    # Zeros behind a frame would not change its checksum.
    whole = not any(
        crc16.umts(data[start:end]) or data.endswith(b"\0\0", start, end)
        for start, end in pairwise([*starts, len(data)])
    )
    return samples if starts and whole else None


def _frames(data: bytes, begin: int, bits: int, block: int, samples: int) -> list[int]:
    """Where the frames begin; nothing when they are not all those that are expected, or when there are others."""
    count = -(-samples // block)
    most = 2 * count + len(data) // 4096 + 16  # all frames, and what looks like one by chance
    starts: list[int] = []
    for place, match in enumerate(SYNC.finditer(data, begin)):
        frame = _frame(data, match.start(), bits)
        number = len(starts)
        if frame == (number, block if number + 1 < count else samples - number * block):
            starts.append(match.start())
        elif frame or place >= most:
            return []
    return starts if len(starts) == count and starts[0] == begin else []


def _first_frame(data: bytes) -> int | None:
    """Where the metadata ends."""
    at = 4
    for _ in range(MOST_BLOCKS):
        kind = data[at : at + 1]
        if not kind or kind[0] & 0x7F == 0x7F or (at > 4 and not kind[0] & 0x7F):
            return None
        at += 4 + int.from_bytes(data[at + 1 : at + 4], "big")
        if kind[0] & 0x80:
            return at
    return None


def _frame(data: bytes, at: int, bits: int) -> tuple[int, int] | None:
    """(number, samples) of the frame whose header is here, None where there is no header with the right checksum.

    (-1, 0): a header that does not belong into this file.
    """
    head = data[at : at + 16]
    if len(head) < 6:
        return None
    block, rate, length = head[2] >> 4, head[2] & 15, NUMBER_BYTES[head[4]]
    more = BLOCK_BYTES[block]
    end = 4 + length + more + RATE_BYTES[rate]
    if not length or not block or end >= len(head) or crc8.smbus(head[:end]) != head[end]:
        return None
    # Blocks of one length, numbered; mono, 16 kHz and the bits as said in front, or said again.
    if head[1] != 0xF8 or rate not in (0, 5) or head[3] not in (0, SIZES[bits] << 1):
        return -1, 0
    number = head[4] if length == 1 else head[4] & (0x7F >> length)
    for byte in head[5 : 4 + length]:
        number = number << 6 | byte & 0x3F
    return number, BLOCKS.get(block) or int.from_bytes(head[4 + length : 4 + length + more], "big") + 1
