"""Which library computes Qwen3-ASR, by what is installed, what is asked for and whether there is a GPU."""

import pytest

from tingdao.engines.qwen import runtime as qwen_runtime
from tingdao.engines.qwen.runtime import choose_runtime
from tingdao.errors import SetupError
from tingdao.settings import QwenSettings

BOTH = ("torch", "openvino")


@pytest.fixture
def machine(monkeypatch):
    """A machine with these runtimes installed, with a GPU or without."""

    def make(runtimes, gpu):
        monkeypatch.setattr(qwen_runtime, "installed", lambda runtime: runtime in runtimes)
        monkeypatch.setattr(qwen_runtime, "has_gpu", lambda: gpu)

    return make


@pytest.mark.parametrize(
    ("runtimes", "gpu", "asked", "chosen"),
    [
        (BOTH, False, {}, "openvino"),
        (BOTH, True, {}, "torch"),
        (BOTH, True, {"device": "cpu"}, "openvino"),
        (BOTH, False, {"device": "cuda"}, "torch"),
        (BOTH, False, {"runtime": "torch"}, "torch"),
        (BOTH, True, {"runtime": "openvino"}, "openvino"),
        (BOTH, True, {"dtype": "int4"}, "openvino"),
        (BOTH, False, {"dtype": "bfloat16"}, "torch"),
        (BOTH, False, {"dtype": "float32"}, "torch"),
        (["openvino"], False, {"dtype": "float32"}, "openvino"),
        (["openvino"], True, {}, "openvino"),
        (["torch"], False, {}, "torch"),
    ],
)
def test_choice(machine, tmp_path, runtimes, gpu, asked, chosen):
    machine(runtimes, gpu)
    assert choose_runtime(tmp_path, QwenSettings(**asked)) == chosen


@pytest.mark.parametrize(
    ("runtimes", "asked", "says"),
    [
        ([], {}, r"pip install 'tingdao\[cpu\]'"),
        (["openvino"], {"runtime": "torch"}, r"pip install 'tingdao\[qwen\]'"),
        (["openvino"], {"device": "cuda:1"}, r"pip install 'tingdao\[qwen\]'"),
        (["torch"], {"dtype": "int8"}, r"pip install 'tingdao\[cpu\]'"),
        (BOTH, {"dtype": "int8", "runtime": "torch"}, "dtype int8 is OpenVINO's"),
        (BOTH, {"dtype": "float16", "runtime": "openvino"}, "dtype float16 is PyTorch's"),
        (BOTH, {"dtype": "int8", "device": "cuda"}, "OpenVINO runs on the CPU"),
    ],
)
def test_what_cannot_be_has_the_next_step(machine, tmp_path, runtimes, asked, says):
    machine(runtimes, gpu=False)
    with pytest.raises(SetupError, match=says):
        choose_runtime(tmp_path, QwenSettings(**asked))


def test_a_converted_folder_goes_to_openvino(machine, tmp_path):
    (tmp_path / "weights.safetensors").touch()
    machine(BOTH, gpu=True)
    assert choose_runtime(tmp_path, QwenSettings()) == "openvino"
    with pytest.raises(SetupError, match="was converted for OpenVINO"):
        choose_runtime(tmp_path, QwenSettings(runtime="torch"))


def test_what_is_installed_is_looked_up():
    assert qwen_runtime.installed("openvino")
    assert qwen_runtime.any_installed()
