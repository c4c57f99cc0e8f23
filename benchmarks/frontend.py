"""From a file to clips of speech: seconds of audio per second of CPU time, beside faster-whisper's own front end.

    python benchmarks/frontend.py [--audio ../shared/audio] [--rounds 3] [--json FILE]

One real telephone call of 9.5 minutes is encoded as mp3 (128 kbit/s), m4a (AAC, 128 kbit/s), opus (64 kbit/s), flac
and wav, all but opus as 44.1 kHz stereo. Each contender is a process of its own, with its model loaded and one short
recording behind it; they take turns on each file. Counted is the CPU time, user and system, of that process and all
its descendants, read from /proc, so decoding in child processes counts in full. Everything runs on one core (Linux).

    tingdao         decode in a confined child process, spool on disk, speech spans, clips
    faster-whisper  decode_audio, get_speech_timestamps
    floor           libav decoding the packets without resampling or storing anything; the model over samples in
                    memory without making spans of its answers
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

SOURCE = "long_gecko_call.flac"
FORMATS = {  # suffix: encoder, its bit rate, sample rate, sample format
    "mp3": ("libmp3lame", 128_000, 44_100, "s16p"),
    "m4a": ("aac", 128_000, 44_100, "fltp"),
    "opus": ("libopus", 64_000, 48_000, "s16"),
    "flac": ("flac", None, 44_100, "s16"),
    "wav": ("pcm_s16le", None, 44_100, "s16"),
}
Floats = NDArray[np.float32]


def encode(source: Path, target: Path) -> None:
    """Write the recording in the format of the target's suffix, in stereo."""
    codec, bit_rate, rate, layout = FORMATS[target.suffix[1:]]
    with (
        av.open(str(source)) as read,
        av.open(str(target), "w", format="ogg" if codec == "libopus" else None) as written,
    ):
        stream = written.add_stream(codec, rate=rate, layout="stereo", format=layout)
        if bit_rate:
            stream.bit_rate = bit_rate
        resampler = av.AudioResampler(layout, "stereo", rate, frame_size=stream.frame_size or 4096)
        done = 0
        for frame in [*read.decode(audio=0), None]:
            for piece in resampler.resample(frame):
                piece.pts, piece.time_base = done, Fraction(1, rate)
                done += piece.samples
                written.mux(stream.encode(piece))
        written.mux(stream.encode(None))


def tree_cpu_s() -> float:
    """CPU seconds of this process, its descendants, and those of them that ended and were waited for."""
    parents: dict[int, int] = {}
    ticks: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(fields[1])
            ticks[int(entry.name)] = [int(field) for field in fields[11:15]]  # user, system, children's user, system
    me = os.getpid()
    family, generation = set(), {me}
    while generation:
        family |= generation
        generation = {child for child, parent in parents.items() if parent in generation}
    others = sum(ticks[me][2:]) + sum(sum(ticks[member]) for member in family - {me})
    return time.process_time() + others / os.sysconf("SC_CLK_TCK")


@dataclass
class Task:
    """What is measured: `run` on what `prepare` made of the file, which is not counted."""

    run: Callable[[Any], object]
    prepare: Callable[[Path], object] = lambda path: path


class Decoded:
    """A recording that is decoded already."""

    def __init__(self, samples: Floats) -> None:
        self.samples = samples

    async def wait_for(self, samples: int) -> int:
        """All there is."""
        return len(self.samples)

    def read(self, start: int, end: int) -> Floats:
        """A view."""
        return self.samples[start:end]


def tingdao() -> dict[str, Task]:
    """The whole, and its two parts."""
    from tingdao.audio.decode import Decoder
    from tingdao.audio.speech import Samples, SpeechDetector, clips
    from tingdao.settings import AudioSettings

    settings = AudioSettings()
    decoder = Decoder(settings, Path(tempfile.gettempdir()))
    detector = SpeechDetector(settings)
    loop = asyncio.new_event_loop()
    decoder.start()

    async def cut(recording: Samples) -> list[object]:
        return [clip async for clip in clips(recording, detector, settings.clip_limit_s)]

    async def whole(path: Path) -> list[object]:
        with path.open("rb") as file:
            async with decoder.open(file) as spool:
                return await cut(spool)

    async def decode(path: Path) -> Floats:
        with path.open("rb") as file:
            async with decoder.open(file) as spool:
                return spool.read(0, await spool.wait_for(sys.maxsize))

    return {
        "whole": Task(lambda path: loop.run_until_complete(whole(path))),
        "decode": Task(lambda path: loop.run_until_complete(decode(path))),
        "speech": Task(
            lambda samples: loop.run_until_complete(cut(Decoded(samples))),
            lambda path: loop.run_until_complete(decode(path)),
        ),
    }


def faster_whisper() -> dict[str, Task]:
    """The same, as its `transcribe` does it with `vad_filter=True`."""
    from faster_whisper.audio import decode_audio
    from faster_whisper.vad import get_speech_timestamps

    return {
        "whole": Task(lambda path: get_speech_timestamps(decode_audio(str(path)))),
        "decode": Task(lambda path: decode_audio(str(path))),
        "speech": Task(get_speech_timestamps, lambda path: decode_audio(str(path))),
    }


def floor() -> dict[str, Task]:
    """What is left when nothing is resampled, stored or cut."""
    from faster_whisper.audio import decode_audio

    from tingdao.audio.silero import Silero

    model = Silero()

    def decode(path: Path) -> None:
        with av.open(str(path)) as container:
            for _ in container.decode(audio=0):
                pass

    return {
        "decode": Task(decode),
        "speech": Task(lambda samples: model.listen().hear(samples), lambda path: decode_audio(str(path))),
    }


CONTENDERS = {"tingdao": tingdao, "faster-whisper": faster_whisper, "floor": floor}


class Contender:
    """One of them in a process of its own, which does what it is told and says how much CPU time that took."""

    def __init__(self, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--contender", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(self, task: str, path: Path) -> float:
        """CPU seconds. Raises RuntimeError when the process has ended; its own words are on stderr."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([task, str(path)]), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{task} of {path.name} failed.")
        return float(answer)

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def contend(name: str) -> None:
    """What such a process does."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not an answer
    tasks = CONTENDERS[name]()
    for line in sys.stdin:
        task, path = json.loads(line)
        prepared = tasks[task].prepare(Path(path))
        before = tree_cpu_s()
        tasks[task].run(prepared)
        time.sleep(0.05)  # so that a child that has ended is waited for
        print(tree_cpu_s() - before, file=answers, flush=True)


def measure(source: Path, rounds: int, folder: Path) -> dict[str, dict[str, dict[str, list[float]]]]:
    """CPU seconds by format, contender and task, one for each round."""
    files = {suffix: folder / f"call.{suffix}" for suffix in FORMATS}
    for file in tqdm(files.values(), desc="encoding", unit="file", file=sys.stderr):
        encode(source, file)
    contenders = {name: Contender(name) for name in CONTENDERS}
    tasks = [
        (name, task)
        for task in ("whole", "decode", "speech")
        for name in CONTENDERS
        if (name, task) != ("floor", "whole")
    ]
    seconds: dict[str, dict[str, dict[str, list[float]]]] = {
        suffix: {name: {} for name in CONTENDERS} for suffix in FORMATS
    }
    try:
        for name, task in tasks:
            contenders[name].measure(task, files["wav"])  # warm
        with tqdm(total=rounds * len(files) * len(tasks), desc="measuring", unit="run", file=sys.stderr) as bar:
            for _ in range(rounds):
                for suffix, file in files.items():
                    for name, task in tasks:
                        spent = contenders[name].measure(task, file)
                        seconds[suffix][name].setdefault(task, []).append(spent)
                        bar.update()
    finally:
        for contender in contenders.values():
            contender.close()
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--audio", type=Path, default=Path(__file__).parent / "../../shared/audio")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the CPU seconds of every round to this file too")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.contender:
        contend(wanted.contender)
        return
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with av.open(str(wanted.audio / SOURCE)) as container:
        assert container.duration is not None
        duration = container.duration / av.time_base
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(wanted.audio / SOURCE, wanted.rounds, Path(folder))

    def speed(suffix: str, name: str, task: str) -> float:
        return duration / statistics.median(seconds[suffix][name][task])

    print(
        f"Seconds of audio per CPU second on one core; medians of {wanted.rounds} rounds; {duration:.0f} s of speech.\n"
    )
    print(f"{'':6}{'decode + speech spans':^34}{'decode alone':^34}{'speech spans alone':^34}")
    heads = ("tingdao", "faster-wh.", "ratio", "floor")
    print(f"{'':6}" + "".join(f"{head:>8}" if head != "faster-wh." else f"{head:>11}" for head in heads) * 3)
    for suffix in FORMATS:
        line = f"{suffix:6}"
        for task in ("whole", "decode", "speech"):
            ours, theirs = speed(suffix, "tingdao", task), speed(suffix, "faster-whisper", task)
            parts = [seconds[suffix]["floor"][part] for part in (("decode", "speech") if task == "whole" else (task,))]
            least = duration / sum(map(statistics.median, parts))
            line += f"{ours:7.0f}×{theirs:10.0f}×{ours / theirs:8.2f}{least:7.0f}×"
        print(line)
    if wanted.json:
        wanted.json.write_text(json.dumps({"duration": duration, "cpu_seconds": seconds}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
