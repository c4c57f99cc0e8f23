"""Recordings in every format, made from one of the recordings here, and ways to damage them."""

from __future__ import annotations

import functools
import random
import struct
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SPEECH = Path(__file__).parent / "recordings" / "jfk.flac"
SECONDS = 11.0

FORMATS: dict[str, tuple[str, str, int, str, str, dict[str, str]]] = {
    # name: container, codec, sample rate, layout, sample format, options of the container
    "wav": ("wav", "pcm_s16le", 16_000, "mono", "s16", {}),
    "wav 44.1 kHz stereo": ("wav", "pcm_s16le", 44_100, "stereo", "s16", {}),
    "wav 24 bit": ("wav", "pcm_s24le", 48_000, "stereo", "s32", {}),
    "wav float": ("wav", "pcm_f32le", 48_000, "mono", "flt", {}),
    "wav 8 bit": ("wav", "pcm_u8", 22_050, "mono", "u8", {}),
    "wav a-law": ("wav", "pcm_alaw", 8_000, "mono", "s16", {}),
    "wav mu-law": ("wav", "pcm_mulaw", 8_000, "mono", "s16", {}),
    "w64": ("w64", "pcm_s16le", 16_000, "mono", "s16", {}),
    "aiff": ("aiff", "pcm_s16be", 44_100, "mono", "s16", {}),
    "au": ("au", "pcm_s16be", 16_000, "mono", "s16", {}),
    "caf": ("caf", "pcm_s16le", 16_000, "mono", "s16", {}),
    "mp3": ("mp3", "libmp3lame", 44_100, "stereo", "fltp", {}),
    "mp3 variable": ("mp3", "libmp3lame", 44_100, "mono", "fltp", {}),
    "mp3 without tag": ("mp3", "libmp3lame", 16_000, "mono", "fltp", {"write_xing": "0"}),
    "m4a": ("ipod", "aac", 44_100, "mono", "fltp", {}),
    "m4a index first": ("ipod", "aac", 44_100, "mono", "fltp", {"movflags": "faststart"}),
    "m4a fragments": ("mp4", "aac", 44_100, "mono", "fltp", {"movflags": "frag_keyframe+empty_moov"}),
    "m4a lossless": ("ipod", "alac", 44_100, "stereo", "s16p", {}),
    "aac": ("adts", "aac", 44_100, "mono", "fltp", {}),
    "ogg vorbis": ("ogg", "vorbis", 44_100, "stereo", "fltp", {}),
    "ogg opus": ("ogg", "libopus", 48_000, "mono", "s16", {}),
    "webm": ("webm", "libopus", 48_000, "mono", "s16", {}),
    "webm live": ("webm", "libopus", 48_000, "stereo", "s16", {"live": "1"}),
    "flac": ("flac", "flac", 16_000, "mono", "s16", {}),
    "flac 44.1 kHz stereo": ("flac", "flac", 44_100, "stereo", "s16", {}),
}
STORED = {"amr": Path(__file__).parent / "fixtures" / "jfk.amr"}
"""The recording in formats for which PyAV does not always have an encoder."""


REFUSED = {"wavpack": ("matroska", "wavpack", 44_100, "mono", "s16p", {})}
CODEC_OPTIONS = {
    "mp3": {"b": "128k"},
    "mp3 variable": {"global_quality": "500", "flags": "+qscale"},
    "ogg vorbis": {"strict": "experimental"},
}


@functools.cache
def speech() -> np.ndarray:
    """The samples of the recording: float32, 16 kHz."""
    return np.concatenate([frame.to_ndarray()[0] for frame in frames(16_000, "mono", "s16")]).astype(np.float32) / 32768


@functools.cache
def frames(rate: int, layout: str, form: str) -> tuple[av.AudioFrame, ...]:
    """The recording in another form."""
    resampler = av.AudioResampler(format=form, layout=layout, rate=rate)
    with av.open(str(SPEECH)) as container:
        found = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return (*found, *resampler.resample(None))


def packets(stream, rate: int, layout: str, form: str, delay: float = 0.0) -> Iterator[av.Packet]:
    """The recording, encoded, from a time in seconds on."""
    pts = round(delay * rate)
    for frame in frames(rate, layout, form):
        frame.pts, frame.time_base = pts, Fraction(1, rate)
        pts += frame.samples
        yield from stream.encode(frame)
    yield from stream.encode(None)


@functools.cache
def recording(name: str) -> bytes:
    """The recording as a file in one of `FORMATS`, or as `STORED`."""
    if name in STORED:
        return STORED[name].read_bytes()
    return pausing(name, at=SECONDS, pause=0.0)


def pausing(name: str, *, at: float, pause: float) -> bytes:
    """The same, with timestamps that jump by `pause` seconds at a time."""
    container, codec, rate, layout, form, options = (FORMATS | REFUSED)[name]
    with tempfile.NamedTemporaryFile() as file:
        with av.open(file.name, "w", format=container, options=options) as output:
            stream = output.add_stream(codec, rate=rate, options=CODEC_OPTIONS.get(name))
            stream.layout, stream.codec_context.format = layout, form
            for packet in packets(stream, rate, layout, form):
                if packet.pts is not None and packet.pts * packet.time_base >= at:
                    packet.pts += int(pause / packet.time_base)
                    packet.dts = packet.pts
                output.mux(packet)
        return Path(file.name).read_bytes()


@functools.cache
def film(container: str, codec: str | None, *, delay: float = 0.0) -> bytes:
    """Five seconds of grey pictures, with the recording as sound from a time on, or without sound."""
    with tempfile.NamedTemporaryFile() as file:
        with av.open(file.name, "w", format=container) as output:
            pictures = output.add_stream("mpeg4", rate=10)
            pictures.width = pictures.height = 64
            pictures.pix_fmt = "yuv420p"
            sound = output.add_stream(codec, rate=48_000) if codec else None
            if sound:
                form = "s16" if codec == "libopus" else "fltp"
                sound.layout, sound.codec_context.format = "mono", form
            grey = np.full((64, 64, 3), 127, np.uint8)
            for number in range(50):
                frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                for packet in pictures.encode(frame):
                    output.mux(packet)
            for packet in pictures.encode(None):
                output.mux(packet)
            if sound:
                for packet in packets(sound, 48_000, "mono", form, delay):
                    output.mux(packet)
        return Path(file.name).read_bytes()


def wav(samples: bytes, *, rate=16_000, channels=1, bits=16, tag=1, size: int | None = None, tail=b"") -> bytes:
    """A WAV by hand: also such as no program would write. size: what the header says of the data's length."""
    width = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, min(rate * width, 2**32 - 1), width & 0xFFFF, bits)
    length = len(samples) if size is None else size
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", length) + samples + tail
    return b"RIFF" + struct.pack("<I", len(body)) + body


def pcm(seconds: float = SECONDS) -> bytes:
    """The beginning of the recording as 16-bit samples at 16 kHz."""
    return (speech()[: round(seconds * 16_000)] * 32768).astype("<i2").tobytes()


@functools.cache
def silence(hours: float) -> bytes:
    """FLAC of nothing at all: little more than half a megabyte an hour."""
    nothing = av.AudioFrame.from_ndarray(np.zeros((1, 2**17), np.int16), format="s16", layout="mono")
    nothing.sample_rate, nothing.time_base = 8_000, Fraction(1, 8_000)
    with tempfile.NamedTemporaryFile() as file:
        with av.open(file.name, "w", format="flac") as output:
            stream = output.add_stream("flac", rate=8_000)
            stream.layout, stream.codec_context.format = "mono", "s16"
            for number in range(round(hours * 3600 * 8_000 / 2**17)):
                nothing.pts = number * 2**17
                for packet in stream.encode(nothing):
                    output.mux(packet)
            for packet in stream.encode(None):
                output.mux(packet)
        return Path(file.name).read_bytes()


def noise_in(data: bytes, share: float, start: float = 0.4, seed: int = 1) -> bytes:
    """The same file with a part of it replaced by noise."""
    begin = int(len(data) * start)
    end = begin + int(len(data) * share)
    return data[:begin] + random.Random(seed).randbytes(end - begin) + data[end:]


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Damaged copies of a file: flipped bits, a cut, a part twice, a part lost, wrong numbers in the head, noise."""
    rng = random.Random(seed)
    for number in range(count):
        copy = bytearray(data)
        at = rng.randrange(len(copy))
        length = rng.randrange(1, max(2, len(copy) // 4))
        match number % 6:
            case 0:
                for _ in range(rng.choice((1, 10, 200))):
                    copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
            case 1:
                del copy[at:]
            case 2:
                copy[at:at] = copy[at : at + length]
            case 3:
                del copy[at : at + length]
            case 4:
                place = rng.randrange(max(1, min(len(copy) - 4, 600)))
                copy[place : place + 4] = rng.choice(
                    (b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", rng.randbytes(4))
                )
            case _:
                copy[at : at + length] = rng.randbytes(min(length, len(copy) - at))
        yield bytes(copy)
