"""The packets of a recording, to the end of the file, and what was lost on the way.

libav steps over damaged places without a word. What it left out shows in the positions of the packets in the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Final, cast

import av
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Discard, Stream

from tingdao.audio.recording import Recording, ogg_start, tag_size
from tingdao.errors import BrokenAudio

MAX_ERRORS: Final = 64
"""Failed reads in a row after which the rest of a file counts as unreadable."""
HEADERS: Final = 1024
"""Bytes that may lie between two packets of a Matroska file."""
TAIL: Final = {"matroska": HEADERS, "ogg": 65_307}
"""Bytes that may follow the position of the last packet: of an Ogg page, all packets have the page's."""

if TYPE_CHECKING:
    SoundPacket = Packet[AudioStream]


class Packets:
    """Iterates, once, over the packets of the sound.

    start: the timestamp, in seconds, with which the recording begins where that is not its first sound: in a film the
        first of sound and picture, and 0 where the first sounds are lost; else None.
    good, bad: bytes that were decoded, and bytes that could not be.
    """

    def __init__(self, recording: Recording) -> None:
        """Read up to the first packet. Raises BrokenAudio."""
        self.start: float | None = None
        self.good = 0
        self.bad = 0
        self._recording = recording
        self._packets = self._with_films() if recording.films else self._read([recording.stream])
        self._latest = self._first = next(self._packets, None)
        self._begin = (self._first.pos or 0) if self._first else 0
        self._tag_end = 0
        if recording.alone and recording.name == "ogg":
            lost = self._begin - ogg_start(recording.source)
            if lost > 0:
                self.bad += lost
                self.start = 0.0

    def __iter__(self) -> Iterator[SoundPacket]:
        packets = self._packets if self._first is None else chain([self._first], self._packets)
        return self._without_holes(packets) if self._recording.name == "matroska" else packets

    def _without_holes(self, packets: Iterator[SoundPacket]) -> Iterator[SoundPacket]:
        """The same packets; what is missing between them, where nothing else can be there, is counted as bad."""
        end = self._begin
        for packet in packets:
            if packet.pos is not None and self._recording.alone:
                if packet.pos - end > HEADERS:
                    self.bad += packet.pos - end
                end = packet.pos + packet.size
            yield packet

    def failed(self, packet: SoundPacket) -> int:
        """Bytes, counted as bad, of a packet that cannot be decoded; 0 if it only belongs to a tag between sounds."""
        position = packet.pos or 0
        if not packet.size:  # the decoder was only asked for what it still had
            return 0
        if tag := tag_size(bytes(memoryview(packet)[:16])):
            self._tag_end = position + tag
        if position < self._tag_end:
            return 0
        self.bad += packet.size
        return packet.size

    def loss(self) -> float:
        """Share of the bytes that was lost, at the end."""
        recording = self._recording
        if recording.alone and recording.name in TAIL:  # after some errors libav takes any place for the end
            self.bad += max(recording.source.size - self._end() - TAIL[recording.name], 0)
        if recording.name == "aac":  # what is no packet is nothing
            self.bad = max(recording.source.size - self._begin - self.good, self.bad)
        return self.bad / (self.bad + self.good) if self.bad else 0.0

    def _end(self) -> int:
        """Where in the file the latest packet ends, as far as its position is its own."""
        latest = self._latest
        return 0 if latest is None or latest.pos is None else latest.pos + latest.size

    def _with_films(self) -> Iterator[SoundPacket]:
        """Packets of the sound only; before the first it is known when the film begins."""
        sound, films = self._recording.stream, self._recording.films
        begun = False
        for packet in self._read([sound, *films]):
            if not begun and packet.pts is not None and packet.time_base:
                time = float(packet.pts * packet.time_base)
                self.start = time if self.start is None else min(self.start, time)
            if packet.stream_index == sound.index:
                if not begun:
                    begun = True
                    for film in films:
                        film.discard = Discard.all
                yield packet

    def _read(self, streams: list[Stream]) -> Iterator[SoundPacket]:
        """Packets of streams, over places that cannot be read. Raises BrokenAudio when nothing else comes."""
        errors = 0
        while True:
            try:
                for packet in cast("Iterator[SoundPacket]", self._recording.container.demux(streams)):
                    errors = 0
                    if packet.size:  # not the empty one at the end, which has no position
                        self._latest = packet
                    yield packet
            except av.error.MemoryError:
                raise
            except av.error.FFmpegError:
                errors += 1
                if errors > MAX_ERRORS:
                    raise BrokenAudio(
                        "This recording cannot be read to its end: it is damaged, or joined from parts of different "
                        "kinds. Convert it to WAV or MP3, and send it again."
                    ) from None
            else:
                return
