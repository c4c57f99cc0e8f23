"""What a file is, judged by its content, and whether it may be decoded.

    head of the file ─ signature ─► container, opened by libav without a way to open anything more
                                    ├─► the audio stream
                                    └─► the length that it declares

Names and declared types are never looked at. Containers and codecs are white-listed: libav also knows playlists,
which open other files, and hundreds of formats that hardly anyone tests. No header is believed for its own sake: a
declared length serves only to notice that the end of the file is missing.
"""

from __future__ import annotations

import codecs
import os
import struct
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Discard, Disposition, Stream

from tingdao.errors import BrokenAudio, EmptyAudio, NotAudio

NO_SAMPLES: Final = "There is not a single sample in this file. Send a recording."
FORMATS: Final = "WAV, MP3, M4A/MP4, OGG, Opus, WebM, FLAC, AAC or AMR"

DECODERS: Final = (
    "aac,aac_latm,ac3,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,alac,amrnb,amrwb,eac3,flac,g722,g726,gsm,gsm_ms,mp1float,"
    "mp2float,mp3float,opus,pcm_alaw,pcm_f32be,pcm_f32le,pcm_f64be,pcm_f64le,pcm_mulaw,pcm_s16be,pcm_s16le,pcm_s24be,"
    "pcm_s24le,pcm_s32be,pcm_s32le,pcm_s8,pcm_u8,speex,vorbis"
)
"""Codecs of recorders, telephony and video files, by libav's names, as libav takes them."""

SIGNATURES: Final = (
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (0, b"riff\x2e\x91\xcf\x11", "w64"),
    (0, b"FORM", "aiff"),
    (0, b".snd", "au"),
    (0, b"caff", "caf"),
    (0, b"#!AMR", "amr"),
    (8, b"WAVE", "wav"),
    *((4, box, "mov") for box in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")),
)
"""Offset, the bytes there, and libav's name of the container."""
TITLES: Final = {"mov": "MP4 or M4A", "matroska": "WebM or Matroska"}
"""What people call containers whose name here is another."""
UNSIGNED: Final = "mp3,aac,flac"
"""Containers without a signature, or with a tag before it: libav tells them apart."""
COUNTED: Final = frozenset({"mp3", "aac", "amr"})
"""Containers without timestamps: libav counts frames, so that lost ones leave no gap."""
PAUSING: Final = frozenset({"mov", "matroska"})
"""Containers in which a gap between timestamps can be a pause of the recorder."""

OTHERS: Final = (
    (b"PK\x03\x04", "a zip archive or an office document"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"MThd", "a MIDI score"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"\x30\x26\xb2\x75", "a Windows Media file"),
    (b"RIFF", "an AVI video or another RIFF file without sound waves"),
    (b"FLV", "a Flash video"),
    (b"wvpk", "a WavPack file"),
    (b"MAC ", "a Monkey's Audio file"),
)
TEXTS: Final = (
    ("#EXTM3U", "a playlist"),
    ("ffconcat", "a playlist"),
    ("[playlist]", "a playlist"),
    ("<", "a web page or an XML file"),
    ("v=0", "a stream description"),
    ("", "text"),
)

ANY_TEXT: Final[dict[str, Any]] = {"metadata_errors": "ignore"} if av.__version__.startswith("18.") else {}
"""Tags may be in any encoding; from version 19 on, PyAV takes that for granted."""
HEAD: Final = 4096
"""Bytes that are enough to know a file."""
PACKET: Final = "65536"
"""Bytes of PCM that libav hands over at once; its default is a twentieth of that, which costs time."""
CHUNKS: Final = {"wav": ("<4sI", 12, 2), "w64": ("<16sQ", 40, 8), "caf": (">4sQ", 8, 1)}
"""Containers made of chunks: id and size of a chunk, where the first one is, to what they are aligned."""
OPEN_ENDED: Final = 0x7FFF_0000
"""Data sizes from here on in a WAV, and 0, are from programs that could not go back to write the true one."""
TAIL: Final = 4096
"""Bytes behind the declared end of the data that may be anything."""


class Source:
    """A regular file as libav reads it: by position, since the descriptor's own is shared with the service."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0
        self.size = os.fstat(descriptor).st_size

    def read(self, size: int) -> bytes:
        """The next bytes."""
        found = os.pread(self._descriptor, size, self._position)
        self._position += len(found)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position."""
        self._position = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence] + offset
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def at(self, position: int, size: int) -> bytes:
        """Bytes from anywhere."""
        return os.pread(self._descriptor, size, position)


@dataclass(frozen=True, slots=True)
class Recording:
    """An opened file and the audio stream in it that is decoded.

    name: libav's name of the container.
    container, stream: PyAV's objects.
    films: streams of moving pictures; the time of a film begins with the first of picture and sound.
    source: the file.
    declared: length of the audio by what the container says, in seconds; None where it does not say.
    alone: the file has no other streams.
    """

    name: str
    container: InputContainer
    stream: AudioStream
    films: tuple[Stream, ...]
    source: Source
    declared: float | None
    alone: bool

    @property
    def counted(self) -> bool:
        """Whether timestamps are only counted, so that they show no gaps."""
        return self.name in COUNTED

    @property
    def pausing(self) -> bool:
        """Whether gaps between timestamps can be meant."""
        return self.name in PAUSING or bool(self.films)


def open_recording(source: Source) -> Recording:
    """Open the first audio stream of a file. Raises EmptyAudio, NotAudio, BrokenAudio."""
    if not source.size:
        raise EmptyAudio("The file is empty (0 bytes). Send a recording.")
    kind = _kind(source.at(0, HEAD))
    data = _data_chunk(source, kind) if kind in CHUNKS else None
    if data and data.declared == 0:
        raise EmptyAudio(NO_SAMPLES)
    container = _open(source, kind, ignore_length=bool(data and data.lies))
    stream = _audio_stream(container)
    name = container.format.name.partition(",")[0]
    others = [other for other in container.streams if other.index != stream.index]
    films = tuple(other for other in others if _is_film(other))
    for other in others:
        if other not in films:
            other.discard = Discard.all
    return Recording(
        name,
        container,
        stream,
        films,
        source,
        declared=_declared(source, name, container, stream, data),
        alone=not others,
    )


def _kind(head: bytes) -> str | None:
    """The container by libav's name, or None where it must find out. Raises NotAudio for what is known as other."""
    text = _text(head)
    if text is not None:
        _refuse(next(what for begin, what in TEXTS if text.startswith(begin)))
    for offset, signature, kind in SIGNATURES:
        if head.startswith(signature, offset):
            return kind
    for signature, what in OTHERS:
        if head.startswith(signature):
            _refuse(what)
    return None


def _text(head: bytes) -> str | None:
    """The beginning of a text, or None for anything else; UTF-8 only."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # a character may be cut at the end
    except UnicodeDecodeError:
        return None
    text = text.lstrip("\ufeff \t\r\n")
    return text if "".join(text.split()).isprintable() else None


def _refuse(what: str) -> NoReturn:
    raise NotAudio(f"This is {what}, not a recording that can be read. Send {FORMATS}.")


def _open(source: Source, kind: str | None, *, ignore_length: bool) -> InputContainer:
    options = {
        "format_whitelist": kind or UNSIGNED,
        "codec_whitelist": DECODERS,
        "protocol_whitelist": "",
        "max_probe_packets": "1",  # else libav searches long for other codecs hidden in PCM
    }
    if kind in ("wav", "w64"):
        options["max_size"] = PACKET
    if ignore_length:
        options["ignore_length"] = "1"
    try:
        container: InputContainer = av.open(
            source,
            "r",
            format=kind,
            options=options,
            buffer_size=65_536,
            io_open=_nothing_more,
            **ANY_TEXT,
        )
    except av.error.MemoryError:
        raise
    except av.error.FFmpegError:
        if kind is None:
            raise NotAudio(f"This is no recording in a known format. Send {FORMATS}.") from None
        raise BrokenAudio(
            f"The file begins like {TITLES.get(kind, kind.upper())} but cannot be read: parts of it are missing or "
            "damaged. If the upload or the recording was cut short, send the whole file again."
        ) from None
    return container


def _nothing_more(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    """Stands where libav would open another file that this one names."""
    raise PermissionError("A recording may not open files.")


def _audio_stream(container: InputContainer) -> AudioStream:
    """The first audio stream that may be decoded. Raises NotAudio."""
    streams = container.streams.audio
    if not streams:
        if container.streams.video:
            raise NotAudio("This file has pictures but no sound. Send a recording, or a video with a sound track.")
        raise NotAudio(f"There is no sound in this file. Send {FORMATS}.")
    allowed = DECODERS.split(",")
    for stream in streams:
        if stream.codec_context is not None and stream.codec_context.name in allowed:
            return stream
    names = ", ".join(stream.codec_context.name if stream.codec_context else "unknown" for stream in streams)
    raise NotAudio(f"The sound in this file is in a codec that is not supported ({names}). Send {FORMATS}.")


def _is_film(stream: Stream) -> bool:
    return stream.type == "video" and Disposition.attached_pic not in stream.disposition


def _seconds(stream: Stream, time: int | None) -> float | None:
    """A time or duration of a stream, in seconds."""
    return None if time is None or stream.time_base is None else float(time * stream.time_base)


# How long the audio should be.


@dataclass(frozen=True, slots=True)
class _Data:
    """The chunk with the samples: bytes that it declares (None: open-ended) and bytes that there are.

    lies: there are far more bytes than it declares, and they are not other chunks.
    """

    declared: int | None
    present: int
    lies: bool


def _data_chunk(source: Source, kind: str) -> _Data | None:
    """Find the chunk with the samples, as libav will."""
    layout, position, align = CHUNKS[kind]
    header = struct.calcsize(layout)
    long_size = None
    for _ in range(1000):
        head = source.at(position, header)
        if len(head) < header:
            return None
        name, size = struct.unpack(layout, head)
        if kind == "w64":
            size -= header  # counts its own header
        position += header
        if name == b"ds64":  # RF64: sizes that do not fit into 32 bits
            long_size = int.from_bytes(source.at(position + 8, 8), "little")
        if name.startswith(b"data"):
            present = source.size - position
            if size == 0xFFFF_FFFF and long_size:
                size = long_size
            elif size == 0 and kind == "wav" and _is_chunk(source, position):
                return _Data(0, 0, lies=False)
            elif size <= 0 or (kind == "wav" and size >= OPEN_ENDED) or size >= 1 << 62:
                return _Data(None, present, lies=False)
            end = position + size + size % 2
            return _Data(size, present, lies=kind == "wav" and source.size - end > TAIL and not _is_chunk(source, end))
        position += max(size, 0) + -size % align
    return None


def _is_chunk(source: Source, position: int) -> bool:
    """Whether one more chunk of a WAV begins here, and ends within the file."""
    name, size = source.at(position, 4), source.at(position + 4, 4)
    printable = len(size) == 4 and all(32 <= byte < 127 for byte in name)
    return printable and position + 8 + int.from_bytes(size, "little") <= source.size + 1


def _declared(
    source: Source, name: str, container: InputContainer, stream: AudioStream, data: _Data | None
) -> float | None:
    """Seconds of audio by the container's own word, None where it does not give it."""
    length = _seconds(stream, stream.duration)
    if name in CHUNKS:  # libav cuts the length to what is there
        if length is None or data is None or not data.declared or data.present <= 0:
            return None
        return length * max(data.declared / data.present, 1.0)
    if name == "mp3":
        return _mp3_frames(source) * stream.codec_context.frame_size / stream.codec_context.sample_rate or None
    if name == "matroska":
        return container.duration / av.time_base if container.duration and _is_cut_matroska(source) else None
    return length if name in ("flac", "mov", "aiff", "au") else None


def _mp3_frames(source: Source) -> int:
    """Frames of an MP3 by its Xing or Info tag, 0 without one; libav would estimate then.

    The tag: http://gabriel.mp3-tech.org/mp3infotag.html
    """
    frame = source.at(tag_size(source.at(0, 16)), 512)
    found = max(frame.find(b"Xing"), frame.find(b"Info"))
    flags, frames = frame[found + 4 : found + 8], frame[found + 8 : found + 12]
    return int.from_bytes(frames, "big") if found >= 0 and flags and flags[-1] & 1 else 0


def tag_size(data: bytes) -> int:
    """Bytes of the ID3 or APE tag that begins here; 0 where none does. At least 16 bytes are looked at.

    ID3v2: https://id3.org/id3v2.4.0-structure; APEv2: https://wiki.hydrogenaudio.org/index.php?title=APEv2_specification
    """
    if data.startswith(b"ID3"):
        return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=False))
    if data.startswith(b"APETAGEX"):
        return 32 + int.from_bytes(data[12:16], "little")
    return 128 if data.startswith(b"TAG") else 0


def ogg_start(source: Source) -> int:
    """Where the first page with sound is in an Ogg file; pages of headers have no time. The end, if that is not seen.

    RFC 3533, section 6.
    """
    position = 0
    while (head := source.at(position, 27 + 255)).startswith(b"OggS"):
        if head[6:14] not in (bytes(8), b"\xff" * 8):
            return position
        segments = head[26]
        position += 27 + segments + sum(head[27 : 27 + segments])
    return source.size


def _is_cut_matroska(source: Source) -> bool:
    """Whether the segment, which holds everything, says that it ends behind the end of the file.

    Ids and sizes: RFC 8794, section 4. A size of ones only is open-ended.
    """
    position = 0
    for _ in range(2):  # the EBML header, then the segment
        name, width = _vint(source.at(position, 8), keep_marker=True)
        size, length = _vint(source.at(position + width, 8), keep_marker=False)
        position += width + length
        if name == 0x1853_8067:
            return size != (1 << 7 * length) - 1 and position + size > source.size
        position += size
    return False


def _vint(data: bytes, *, keep_marker: bool) -> tuple[int, int]:
    """A number of variable width, and its width in bytes."""
    width = 9 - data[0].bit_length() if data and data[0] else 8
    value = int.from_bytes(data[:width], "big")
    return (value if keep_marker else value & ((1 << 7 * width) - 1)), width
