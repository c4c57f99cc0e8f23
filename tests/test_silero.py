import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import onnxruntime
import pytest

from tingdao.audio import silero
from tingdao.audio.silero import FRAME, Silero
from tingdao.errors import SetupError

RECORDINGS = Path(__file__).parent / "recordings"


@pytest.fixture(scope="module")
def model():
    return Silero()


@pytest.fixture(scope="module")
def speech():
    with av.open(str(RECORDINGS / "jfk.flac")) as file:
        resampler = av.AudioResampler("flt", "mono", 16_000)
        frames = [out for frame in file.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def hear(model, samples, size):
    listener = model.listen()
    heard = [listener.hear(samples[start : start + size]) for start in range(0, len(samples), size)]
    return np.concatenate([*heard, listener.end()])


def test_says_what_the_published_graph_says(model, speech):
    frames = len(speech) // FRAME
    published = onnxruntime.InferenceSession(silero._model())
    whole = np.concatenate((np.zeros(64, np.float32), speech))
    rows = np.stack([whole[frame * FRAME : frame * FRAME + 576] for frame in range(frames)])
    state = np.zeros((1, 1, 128), np.float32)
    expected = published.run(None, {"input": rows, "h": state, "c": state})[0]
    assert expected.max() > 0.9
    assert expected.min() < 0.1
    np.testing.assert_allclose(hear(model, speech, len(speech))[:frames], expected, atol=1e-4)


@pytest.mark.parametrize("size", [7, 511, 512, 513, 5_000, 70_000])
def test_pieces_of_any_length_are_heard_as_the_whole(model, speech, size):
    samples = speech[:20_001] if size < 100 else speech
    whole = hear(model, samples, len(samples))
    assert len(whole) == -(-len(samples) // FRAME)
    np.testing.assert_array_equal(hear(model, samples, size), whole)


def test_a_part_of_a_frame_at_the_end_is_filled_with_silence(model, speech):
    rest = np.pad(speech[:40_000], (0, -40_000 % FRAME))
    np.testing.assert_array_equal(hear(model, speech[:40_000], 40_000), hear(model, rest, len(rest)))
    assert model.listen().end().shape == (0,)


def test_recordings_on_many_threads_do_not_meet(model, speech):
    parts = [speech[start : start + 80_000] for start in range(0, 80_000, 10_000)]
    alone = [hear(model, part, 3_000) for part in parts]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda part: hear(model, part, 3_000), parts))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_package_with_the_model_is_not_imported():
    code = "import sys; from tingdao.audio.silero import Silero; Silero(); print(sorted(sys.modules))"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'onnxruntime'" in names
    assert "'faster_whisper'" not in names
    assert "'torch'" not in names


def test_a_missing_model_says_what_to_type(monkeypatch):
    monkeypatch.setattr(silero, "MODEL_PACKAGE", "no_package_of_this_name")
    with pytest.raises(SetupError, match="pip install faster-whisper"):
        Silero()


def test_another_model_in_its_place_is_refused(monkeypatch, tmp_path):
    file = tmp_path / "voice_package" / silero.MODEL_FILE
    file.parent.mkdir(parents=True)
    (tmp_path / "voice_package" / "__init__.py").touch()
    file.write_bytes(silero._model() + b"\0")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(silero, "MODEL_PACKAGE", "voice_package")
    with pytest.raises(SetupError, match="SHA-256"):
        Silero()


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.01])
@pytest.mark.parametrize("seconds", [8, 30, 300])
def test_speech_after_a_long_silence_is_heard_as_at_the_start(model, speech, seconds, noise):
    quiet = seconds * 16_000 // FRAME * FRAME
    sound = noise * np.random.default_rng(0).standard_normal(quiet + len(speech)).astype(np.float32)
    sound[quiet:] += speech
    expected = hear(model, sound[quiet:], 8192) > 0.5
    heard = hear(model, sound, 8192)[quiet // FRAME :] > 0.5
    assert np.mean(heard == expected) > 0.97
    assert abs(int(heard.argmax()) - int(expected.argmax())) <= 4
