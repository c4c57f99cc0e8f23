"""An opened recording -> mono at 16 kHz in true time, written to the spool.

    Packets ─ codec ─► frames ─ Clock ─► where they belong ─ Mixdown ─► mono, 16 kHz, 16-bit ─ Output ─► spool

Samples are counted as they come, whatever the file says about its length. What cannot be decoded becomes silence, up
to a limit; what is lost beyond it, or missing from the end, makes the whole recording an error, because a part of it
would pass for the whole.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable
from typing import Final

import av
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.filter import Graph
from av.video.frame import VideoFrame

from tingdao.audio.clock import Clock, Placed
from tingdao.audio.job import NO_ROOM, SAMPLE_BYTES, Limits, full_disk_refused
from tingdao.audio.packets import Packets
from tingdao.audio.recording import NO_SAMPLES, Recording
from tingdao.errors import BrokenAudio, EmptyAudio, NotAudio, StorageFull, TooLong
from tingdao.types import SAMPLE_RATE

BLOCK: Final = 96 * 1024
"""Bytes of the original that are resampled at once. Frame by frame takes a fifth more time; blocks of 128 KiB and more
the C library gets anew from the kernel each time."""
RATES: Final = range(2_000, 384_001)
"""Hz. Below there is no speech; above there is no microphone."""
MAX_CHANNELS: Final = 64
"""As many as libav mixes."""
MAX_LOSS: Final = 0.1
"""Share of a recording that may be damaged."""
MAX_MISSING: Final = (0.5, 0.02)
"""Seconds, or share where that is more, by which a recording may be shorter than it declares."""
REPORTS: Final = (SAMPLE_RATE, 30 * SAMPLE_RATE)
"""Fewest and most samples between two reports; within these, a quarter of what there is."""


def render(recording: Recording, output: Output) -> None:
    """Decode a whole recording. Raises NotAudio, EmptyAudio, BrokenAudio, TooLong, StorageFull."""
    packets = Packets(recording)
    clock = Clock(packets.start, counted=recording.counted)
    mixdown = Mixdown(output)
    codec = recording.stream.codec_context
    codec.thread_count = 1

    for packet in packets:
        try:
            frames = codec.decode(packet)
        except av.error.MemoryError:
            raise
        except av.error.FFmpegError:
            failed = packets.failed(packet)
            clock.miss(clock.now * failed / max(packets.good, 1))  # as long as so many bytes lasted so far
            continue
        packets.good += packet.size
        for frame in frames:
            if clock.runs_on(frame):
                mixdown.take(frame)
            else:
                mixdown.take_placed(clock.place(frame))
    mixdown.take_placed(clock.rest())
    mixdown.drain()
    _judge(recording, clock, packets, output)
    output.report()


def _judge(recording: Recording, clock: Clock, packets: Packets, output: Output) -> None:
    """Whether what was decoded passes for the recording. Raises EmptyAudio, BrokenAudio."""
    lost = packets.loss()
    if not output.written:
        if lost:
            raise BrokenAudio("Nothing in this recording can be decoded: it is damaged. Send it again.")
        raise EmptyAudio(NO_SAMPLES)
    if not recording.pausing:
        lost = max(lost, clock.silence / clock.now)
    if lost > MAX_LOSS:
        raise BrokenAudio(f"{lost:.0%} of this recording is damaged and cannot be decoded. Send it again.")
    declared = recording.declared or 0.0
    if declared - clock.now > max(MAX_MISSING[0], MAX_MISSING[1] * declared):
        raise BrokenAudio(
            f"The recording should last {declared:.1f} s, but only {clock.now:.1f} s of it can be read. "
            "Was the upload cut short? Send the whole file again."
        )


class Mixdown:
    """Frames of any kind, which may change on the way -> mono, 16 kHz, 16-bit.

    Stereo becomes the mean of both sides; known surround layouts are mixed as for a mono loudspeaker, unknown ones
    become the mean of all channels. Nothing is clipped.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._layout: AudioLayout | None = None
        self._block = 0
        self._fifo = AudioFifo()
        self._graph: Graph | None = None

    def take(self, frame: AudioFrame) -> None:
        """Add a frame to the end. Raises NotAudio for what nobody records."""
        if frame.layout != self._layout:
            self._adapt(frame)
        frame.pts = None  # places are the clock's affair
        try:
            self._fifo.write(frame)
        except ValueError:  # another rate or format
            self._adapt(frame)
            self._fifo.write(frame)
        if self._fifo.samples >= self._block:
            self._push()

    def take_placed(self, placed: Placed) -> None:
        """Add frames, with silence where they begin later than the one before ends."""
        for start, frame in placed:
            if start is not None:
                self.drain()
                self._output.pause_until(round(start * SAMPLE_RATE))
            self.take(frame)

    def drain(self) -> None:
        """Write out what is still in the filter, which looks ahead; the next frame begins anew."""
        self._push()
        if self._graph is not None:
            self._graph.push(None)
            self._pull(self._graph)
            self._graph = None
            gc.collect(1)  # PyAV 19 leaves graphs to it, and does not say how large they are
        self._layout = None

    def _adapt(self, frame: AudioFrame) -> None:
        self.drain()
        rate, channels, layout = frame.sample_rate, frame.layout.nb_channels, frame.layout.name
        if rate not in RATES:
            raise NotAudio(f"The sample rate of this recording is {rate} Hz; {RATES[0]} to {RATES[-1]} Hz can be read.")
        if not 1 <= channels <= MAX_CHANNELS:
            raise NotAudio(f"This recording has {channels} channels; 1 to {MAX_CHANNELS} can be read.")
        self._layout = frame.layout
        self._block = BLOCK // (frame.format.bytes * channels)
        self._fifo = AudioFifo()
        if (rate, frame.format.name, channels) == (SAMPLE_RATE, "s16", 1):
            return
        graph = Graph()
        graph.threads = 1
        chain = [
            graph.add(
                "abuffer",
                sample_rate=str(rate),
                sample_fmt=frame.format.name,
                channel_layout=layout,
                time_base=f"1/{rate}",
            )
        ]
        if channels > 1 and ("channels" in layout or "ambisonic" in layout):  # libav would refuse or guess
            mean = "+".join(f"{1 / channels:.9f}*c{channel}" for channel in range(channels))
            chain.append(graph.add("pan", f"mono|c0={mean}"))
        elif channels > 1:  # before resampling, which else is done for each channel
            chain.append(graph.add("aresample", ochl="mono", osf="fltp", rematrix_maxval="1"))
        chain.append(graph.add("aresample", osr=str(SAMPLE_RATE), osf="s16"))
        chain.append(graph.add("abuffersink"))
        graph.link_nodes(*chain).configure()
        self._graph = graph

    def _push(self) -> None:
        """Take what has come together on to the filter, or, where there is none, to the output."""
        frame = self._fifo.read()
        if frame is None:
            return
        if self._graph is None:
            self._write(frame)
        else:
            self._graph.push(frame)
            self._pull(self._graph)

    def _pull(self, graph: Graph) -> None:
        with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
            while True:
                self._write(graph.pull())

    def _write(self, frame: AudioFrame | VideoFrame) -> None:
        assert isinstance(frame, AudioFrame)
        self._output.write(memoryview(frame.planes[0])[: frame.samples * SAMPLE_BYTES])


class Output:
    """The spool, from the writer's side.

    descriptor: of the spool's file.
    limits: samples beyond which a recording is TooLong, and the free bytes below which it is StorageFull.
    tell: is told how many samples there are, now and then.
    written: samples so far.
    """

    def __init__(self, descriptor: int, limits: Limits, tell: Callable[[int], None]) -> None:
        self.written = 0
        self._descriptor = descriptor
        self._limits = limits
        self._tell = tell
        self._next_report = REPORTS[0]
        self._check_room()

    def write(self, samples: memoryview) -> None:
        """Append 16-bit samples, given as bytes."""
        self._check_length(self.written + len(samples) // SAMPLE_BYTES)
        while samples:
            with full_disk_refused():
                count = os.pwrite(self._descriptor, samples, self.written * SAMPLE_BYTES)
            count -= count % SAMPLE_BYTES
            self.written += count // SAMPLE_BYTES
            samples = samples[count:]
        if self.written >= self._next_report:
            self.report()

    def pause_until(self, position: int) -> None:
        """Silence up to a position in samples; it takes no room on the disk."""
        self._check_length(position)
        if position > self.written:
            os.ftruncate(self._descriptor, position * SAMPLE_BYTES)
            self.written = position

    def report(self) -> None:
        """Tell how much there is."""
        self._check_room()
        self._next_report = self.written + min(max(self.written // 4, REPORTS[0]), REPORTS[1])
        self._tell(self.written)

    def _check_length(self, samples: int) -> None:
        if samples > self._limits.samples:
            limit = self._limits.samples / SAMPLE_RATE
            spoken = f"{limit / 3600:g} h" if limit >= 3600 else f"{limit:g} s"
            raise TooLong(f"The recording is longer than {spoken}, which is the most accepted here. Send it in parts.")

    def _check_room(self) -> None:
        disk = os.fstatvfs(self._descriptor)
        if disk.f_bavail * disk.f_frsize < self._limits.reserve:
            raise StorageFull(NO_ROOM)
