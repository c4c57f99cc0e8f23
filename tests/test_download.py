"""`tingdao download NAME --for cpu` and `tingdao convert`: from a hub in this process to a folder that serves."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import fake_hub
from tingdao import cli
from tingdao.engines.openvino import engine as openvino
from tingdao.engines.openvino.weights import open_converted
from tingdao.models import qwen_folders
from tingdao.settings import Settings
from tiny_qwen import TRAINED, write_original


@pytest.fixture
def run(hub, tmp_path, monkeypatch):
    """Runs the command line with a hub that has the tiny model under the name of the 0.6B."""
    files = write_original(tmp_path / "published").iterdir()
    monkeypatch.setattr(fake_hub, "REPOSITORY", "Qwen/Qwen3-ASR-0.6B")
    monkeypatch.setattr(fake_hub, "CONTENT", {file.name: file.read_bytes() for file in files})
    monkeypatch.setenv("TINGDAO_STATE_DIR", str(tmp_path / "state"))

    def run(*arguments, fails=0):
        done = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
        assert done.exit_code == fails, done.output
        return done.output

    return run


@pytest.fixture
def models(tmp_path):
    return tmp_path / "state" / "models"


@pytest.mark.parametrize("name", ["hf", "modelscope"])
def test_serving_needs_no_conversion_after(run, models, monkeypatch, tmp_path, name):
    told = run("download", "0.6b", "--for", "cpu", "--from", name)
    assert str(models / "qwen3-asr-0.6b-int8") in told
    monkeypatch.setattr(openvino, "convert", None)  # would fail if it were called
    settings = Settings(state_dir=tmp_path / "state")
    ((served, folder),) = qwen_folders(settings).items()
    assert served == "qwen3-asr-0.6b"
    weights = openvino.open_weights(folder, settings.qwen, settings.models_dir)
    assert (weights.folder, weights.precision) == (models / "qwen3-asr-0.6b-int8", "int8")


def test_a_second_run_says_that_it_is_there(run, models):
    run("download", "0.6b", "--for", "cpu")
    made = models / "qwen3-asr-0.6b-int8" / "weights.safetensors"
    before = made.stat()
    told = run("download", "0.6b", "--for", "cpu")
    assert f"It was converted to int8 before, and is in {made.parent}" in told
    assert (made.stat().st_ino, made.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_after_a_plain_download_only_the_conversion_is_missing(run, hub, models):
    run("download", "0.6b")
    assert not (models / "qwen3-asr-0.6b-int8").exists()
    hub.asked.clear()
    run("download", "0.6b", "--for", "cpu")
    assert not any("resolve" in path for path, _ in hub.asked)
    assert open_converted(models / "qwen3-asr-0.6b-int8").precision == "int8"


@pytest.mark.parametrize("harm", ["cut off", "another precision", "another state"])
def test_what_is_no_longer_right_is_made_anew(run, models, harm):
    run("download", "0.6b", "--for", "cpu")
    made = models / "qwen3-asr-0.6b-int8"
    if harm == "cut off":
        (made / "weights.safetensors").write_bytes((made / "weights.safetensors").read_bytes()[:-1000])
    elif harm == "another precision":
        run("convert", models / "qwen3-asr-0.6b", "--int4", "--to", made)
    else:
        config = json.loads((made / "config.json").read_text())
        config["tingdao"]["source"][0][2] -= 1
        (made / "config.json").write_text(json.dumps(config))
    assert "converted to int8." in run("download", "0.6b", "--for", "cpu")
    assert open_converted(made).precision == "int8"


def test_another_folder_holds_what_was_converted(run, models, tmp_path):
    told = run("download", "0.6b", "--for", "cpu", "--to", tmp_path / "usb")
    assert "tingdao serve --model FOLDER" in told
    assert open_converted(tmp_path / "usb").precision == "int8"
    assert (models / "qwen3-asr-0.6b").is_dir()


def test_a_folder_with_something_else_is_left_alone(run, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters.txt").write_text("dear")
    assert "holds something else" in run("download", "0.6b", "--for", "cpu", "--to", tmp_path / "home", fails=2)
    assert "holds something else" in run("convert", TRAINED, "--to", tmp_path / "home", fails=2)
    assert [file.name for file in (tmp_path / "home").iterdir()] == ["letters.txt"]


@pytest.mark.parametrize("name", ["aligner", "whisper-base"])
def test_other_models_need_no_conversion(run, hub, name):
    assert "leave --for cpu out" in run("download", name, "--for", "cpu", fails=2)
    assert hub.asked == []


def test_a_hub_out_of_reach_converts_nothing(run, monkeypatch, models):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in run("download", "0.6b", "--for", "cpu", fails=2)
    assert not (models / "qwen3-asr-0.6b-int8").exists()
