"""What needs no decoding: exact for whole files, and shut to everything else."""

from __future__ import annotations

import io
import random
import struct
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import pytest
from fastcrc import crc8, crc16

import media
from conftest import RECORDINGS
from tingdao.audio import probe
from tingdao.audio.recording import ANY_TEXT
from tingdao.types import SAMPLE_RATE

FLAC = (RECORDINGS / "jfk.flac").read_bytes()


def sent(data, limit=30.0):
    return probe.sent(io.BytesIO(data), limit)


def decoded(data):
    """Samples of a file as libav decodes it, 16-bit or whatever it has; stops at nothing."""
    with av.open(io.BytesIO(data), **ANY_TEXT) as file:
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])


def made(container, codec, samples, *, rate=SAMPLE_RATE, layout="mono", form="s16", tags=None, **options):
    """A file as libav writes it. samples: float."""
    with tempfile.NamedTemporaryFile() as file:
        with av.open(file.name, "w", format=container) as output:
            output.metadata.update(tags or {})
            stream = output.add_stream(codec, rate=rate, options={key: str(value) for key, value in options.items()})
            stream.layout, stream.codec_context.format = layout, form
            scaled = {
                "s16": lambda: (samples * 32767).astype(np.int16),
                "s32": lambda: (samples * 2147483000).astype(np.int32),
                "flt": lambda: samples.astype(np.float32),
            }[form]()
            channels = 2 if layout == "stereo" else 1
            frame = av.AudioFrame.from_ndarray(np.repeat(scaled, channels)[np.newaxis], format=form, layout=layout)
            frame.sample_rate = rate
            stream.codec_context.open()
            whole = stream.codec_context.frame_size or len(samples)
            fifo = av.AudioFifo()
            fifo.write(frame)
            while piece := fifo.read(whole, partial=True):
                output.mux(stream.encode(piece))
            output.mux(stream.encode(None))
        return Path(file.name).read_bytes()


def frames(data):
    """Where the frames of a FLAC begin."""
    count = 4
    while not data[count] & 0x80:
        count += 4 + int.from_bytes(data[count + 1 : count + 4], "big")
    begin = count + 4 + int.from_bytes(data[count + 1 : count + 4], "big")
    places = [match.start() for match in probe.SYNC.finditer(data, begin)]
    return [place for place in places if probe._frame(data, place, 16)]


def declared(data, samples):
    """A FLAC whose header says another length."""
    facts = int.from_bytes(data[18:26], "big") >> 36 << 36 | samples
    return data[:18] + facts.to_bytes(8, "big") + data[26:]


class TestWholeFiles:
    @pytest.mark.parametrize("name", sorted(file.name for file in RECORDINGS.glob("*.flac")))
    def test_recordings_pass_and_are_as_long_as_they_say(self, name):
        data = (RECORDINGS / name).read_bytes()
        found = sent(data)
        assert found.data == data
        assert found.form == "flac"
        assert found.duration == len(decoded(data)) / SAMPLE_RATE

    @pytest.mark.parametrize("seed", range(12))
    def test_files_of_every_make_are_exact_or_not_passed(self, seed):
        rng = random.Random(seed)
        samples = np.resize(media.speech(), rng.randrange(8_000, 200_000))
        kinds = [
            ("wav", "pcm_s16le", "s16", {}),
            ("wav", "pcm_s24le", "s32", {}),
            ("wav", "pcm_f32le", "flt", {}),
            ("flac", "flac", "s16", {"compression_level": rng.randrange(13)}),
            ("flac", "flac", "s32", {"compression_level": rng.randrange(13)}),
        ]
        tags = rng.choice([{}, {"title": "A recording", "comment": "x" * 5000}])
        for container, codec, form, options in kinds:
            for rate, layout in ((16_000, "mono"), (16_000, "stereo"), (8_000, "mono"), (48_000, "mono")):
                data = made(container, codec, samples, rate=rate, layout=layout, form=form, tags=tags, **options)
                found = sent(data)
                if (rate, layout) == (16_000, "mono"):
                    assert found, (container, codec, form)
                    assert found.duration == len(samples) / rate
                    assert found.form == container
                else:
                    assert found is None

    def test_other_formats_do_not_pass(self):
        for name in {*media.FORMATS, *media.STORED} - {"wav", "flac"}:
            assert sent(media.recording(name)) is None, name

    def test_length_is_within_bounds(self):
        assert sent(FLAC, 11.0).duration == 11.0
        assert sent(FLAC, 10.9) is None
        assert sent(media.wav(media.pcm(0.5)), 0.5).duration == 0.5
        assert sent(media.wav(media.pcm(0.49))) is None
        assert sent(b"") is None

    def test_a_file_that_is_too_large_is_not_read(self):
        class Large(io.BytesIO):
            def read(self, *_):
                raise AssertionError("it was read")

        assert probe.sent(Large(bytes(2_000_000)), 10.0) is None

    def test_where_it_was_read_before_does_not_matter(self):
        file = io.BytesIO(FLAC)
        file.seek(1234)
        assert probe.sent(file, 30.0).duration == 11.0


class TestWav:
    def test_an_extensible_header_and_chunks_beside_the_sound(self):
        pcm, fmt = media.pcm(1), struct.pack("<HHIIHH", 0xFFFE, 1, 16_000, 32_000, 2, 16)
        guid = struct.pack("<HHIH", 22, 16, 4, 1) + probe.SUBFORMAT
        beside = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"
        body = b"WAVEfmt " + struct.pack("<I", 40) + fmt + guid + beside + b"data" + struct.pack("<I", len(pcm)) + pcm
        for more in (b"", beside, b"fact" + struct.pack("<II", 4, 1)):
            assert sent(b"RIFF" + struct.pack("<I", len(body + more)) + body + more).duration == 1.0
        for more in (b"x", b"id3 \0\0\0\0", b"data\0\0\0\0", beside[:-2], b"LIST\4\0\0\0wavl", bytes(200)):
            assert sent(b"RIFF" + struct.pack("<I", len(body + more)) + body + more) is None, more
        adpcm = body.replace(struct.pack("<H", 1) + probe.SUBFORMAT, struct.pack("<H", 2) + probe.SUBFORMAT)
        assert sent(b"RIFF" + struct.pack("<I", len(adpcm)) + adpcm) is None

    @pytest.mark.parametrize(
        "data",
        [
            media.wav(media.pcm(2), size=32_000),
            media.wav(media.pcm(2), size=640_000),
            media.wav(media.pcm(2), size=0xFFFF_FFFF),
            media.wav(media.pcm(2), size=0),
            media.wav(media.pcm(2))[:-2],
            media.wav(media.pcm(2)) + bytes(128),
            media.wav(media.pcm(2)[:-1]),
            media.wav(media.pcm(2), channels=2),
            media.wav(media.pcm(2), rate=8_000),
            media.wav(media.pcm(2), rate=44_100),
            media.wav(media.pcm(2), bits=8),
            media.wav(media.pcm(2), bits=32),
            media.wav(media.pcm(2), tag=2),
            media.wav(media.pcm(2), tag=7),
            media.wav(media.pcm(2), tag=3),
            media.wav(media.pcm(2))[:40],
            media.wav(media.pcm(2)).replace(b"WAVE", b"AVI "),
            media.wav(media.pcm(2)).replace(b"RIFF", b"RIFX"),
            media.wav(media.pcm(2)).replace(b"RIFF", b"RF64"),
            media.wav(media.pcm(2)).replace(b"fmt ", b"fmtx"),
        ],
    )
    def test_what_is_not_certain_does_not_pass(self, data):
        assert sent(data) is None

    def test_silence_and_what_is_no_sound_does_not_pass(self):
        def of(values, kind="<f4"):
            return media.wav(np.asarray(values, kind).tobytes(), bits=int(kind[-1]) * 8, tag=3 if "f" in kind else 1)

        speech = media.speech()[:16_000]
        assert sent(of(speech)).duration == 1.0
        for bad in (np.nan, np.inf, -np.inf, 1.5, -1.5):
            values = speech.copy()
            values[5_000] = bad
            assert sent(of(values)) is None, bad
        assert sent(of(np.zeros(16_000))) is None
        assert sent(of(np.zeros(16_000), "<i2")) is None
        assert sent(of(np.full(16_000, 400), "<i2")) is None
        assert sent(of(np.full(16_000, -32_768), "<i2")).duration == 1.0

    def test_an_odd_length_may_be_filled_up_or_not(self):
        for more in (b"", b"\0"):
            pcm = np.repeat(np.frombuffer(media.pcm(1), "<i2"), 2)[:16_001].astype("<i4") << 8
            data = pcm.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
            assert len(data) % 2
            assert sent(media.wav(data, bits=24, tail=more)).duration == 16_001 / 16_000
            assert sent(media.wav(data, bits=24, tail=more + b"\0\0")) is None

    def test_many_chunks_take_no_time(self):
        body = b"WAVE" + b"JUNK\0\0\0\0" * 200_000
        began = time.process_time()
        assert sent(b"RIFF" + struct.pack("<I", len(body)) + body) is None
        assert time.process_time() - began < 0.1


class TestFlac:
    def test_a_header_that_lies_does_not_pass(self):
        for samples in (0, 8_000, 16_000, 11 * 16_000 - 1, 11 * 16_000 + 1, 20 * 16_000, (1 << 36) - 1):
            assert sent(declared(FLAC, samples)) is None, samples
        assert sent(declared(FLAC, 11 * 16_000)).duration == 11.0

    def test_what_is_missing_twice_or_too_much_does_not_pass(self):
        starts = frames(FLAC)
        assert len(starts) > 10
        for cut in (starts[3], starts[3] + 100, len(FLAC) - 1, 42, 41, 20, 8, 4):
            assert sent(FLAC[:cut]) is None, cut
        first, second, third = starts[1:4]
        assert sent(FLAC[:first] + FLAC[second:]) is None
        assert sent(FLAC[:second] + FLAC[first:]) is None
        assert sent(FLAC[:first] + FLAC[second:third] + FLAC[first:second] + FLAC[third:]) is None
        assert sent(FLAC + FLAC[starts[0] :]) is None
        assert sent(FLAC + b"TAG" + bytes(125)) is None
        assert sent(b"ID3\4\0\0\0\0\0\0" + FLAC) is None

    def test_frames_hidden_in_a_frame_do_not_pass(self):
        starts = frames(FLAC)
        last = FLAC[starts[-1] :]
        header = next(last[:end] for end in range(6, 17) if crc8.smbus(last[:end]) == last[end])
        # The last frame by its header, full of others by its content, with a checksum that is right.
        hidden = header + bytes([crc8.smbus(header)]) + FLAC[starts[0] : starts[-1]]
        hidden += crc16.umts(hidden).to_bytes(2, "big")
        assert crc16.umts(hidden) == 0
        assert sent(FLAC[: starts[-1]] + hidden) is None

    def test_damage_is_noticed_wherever_it_is(self):
        whole, begin = decoded(FLAC), frames(FLAC)[0]
        for data in media.mutations(FLAC, 240, seed=5):
            if (found := sent(data)) is None:
                continue
            assert data[begin:] == FLAC[begin:]  # it is in the metadata
            assert found.duration == 11.0
            assert np.array_equal(decoded(data), whole)
        for place in range(begin, len(FLAC), 3331):
            assert sent(FLAC[:place] + bytes([FLAC[place] ^ 4]) + FLAC[place + 1 :]) is None

    def test_silence_does_not_pass(self):
        assert sent(made("flac", "flac", np.zeros(80_000))) is None

    def test_what_looks_like_a_thousand_frames_takes_no_time(self):
        begin = frames(FLAC)[0]
        header = FLAC[frames(FLAC)[1] :][:6]
        for filling in (b"\xff\xf8", header, b"\xff\xf8\xc9\x08\x01", bytes(2)):
            began = time.process_time()
            assert sent(FLAC[:begin] + filling * (1_900_000 // len(filling))) is None
            assert time.process_time() - began < 0.1, filling


@pytest.mark.parametrize("name", ["wav", "flac"])
def test_damaged_files_are_exact_or_not_passed(name):
    data = media.recording(name)
    passed = 0
    for damaged in media.mutations(data, 300, seed=11):
        if found := sent(damaged):
            passed += 1
            assert len(decoded(damaged)) == round(found.duration * SAMPLE_RATE)
    assert passed < 200
