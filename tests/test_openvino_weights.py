"""Converting weights, and converted folders that are broken in the ways that users meet. Needs numpy only."""

import errno
import json
import os
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest
from click.testing import CliRunner

from tingdao import cli
from tingdao.engines.openvino import weights as openvino_weights
from tingdao.engines.openvino.weights import Converted, Published, convert, converted_from, halved, open_converted
from tingdao.engines.qwen.weights import open_checkpoint
from tingdao.errors import SetupError
from tiny_qwen import TRAINED, write_original

CHECKPOINT = open_checkpoint(TRAINED)
EXACT = Published(CHECKPOINT)
LAYER = "model.language_model.layers.1."
MATRICES = [f"{LAYER}mlp.down_proj.weight", f"{LAYER}self_attn.q_proj.weight"]


def quiet(done, whole):
    """Progress that nobody looks at."""


@pytest.fixture(params=["int8", "int4"])
def precision(request):
    return request.param


@pytest.fixture
def folder(tmp_path, precision):
    convert(CHECKPOINT, tmp_path / "made", precision, quiet)
    return tmp_path / "made"


def weights_of(matrix):
    """What a matrix of whole numbers stands for."""
    if matrix.scales.ndim == 2:
        return matrix.numbers * matrix.scales
    lower, upper = matrix.numbers & 15, matrix.numbers >> 4
    numbers = np.stack([lower, upper], axis=-1).reshape(len(lower), matrix.scales.shape[1], -1).astype(np.int8)
    numbers[numbers > 7] -= 16
    return (numbers * matrix.scales).reshape(matrix.shape)


def test_each_number_is_off_by_half_a_step_at_most(folder, precision):
    made = open_converted(folder)
    for name in [*MATRICES, "lm_head.weight"]:
        matrix, exact = made.matrix(name), EXACT.matrix(name).numbers
        assert matrix.shape == exact.shape
        steps = np.abs(matrix.scales).reshape(len(exact), -1).repeat(exact.shape[1] // matrix.scales.shape[1], axis=1)
        off = np.abs(weights_of(matrix) - exact) / steps
        # At the end of 4 bits without a twin of its sign, a number may be cut by a whole step.
        assert off.max() <= (1.001 if matrix.scales.ndim == 3 else 0.501)
        assert off.mean() < 0.27


def test_the_rest_is_as_published(folder):
    made = open_converted(folder)
    for name in ("model.audio_tower.conv2d2.weight", f"{LAYER}input_layernorm.weight"):
        assert (made.array(name) == EXACT.array(name)).all()
    name = "model.audio_tower.layers.0.fc1.weight"
    assert (made.matrix(name).numbers == halved(EXACT.matrix(name).numbers)).all()
    ids = [0, 5, 5, 2047]
    assert (made.embed(ids) == EXACT.embed(ids)).all()
    assert made.embed([]).shape == (0, 192)


def test_both_layouts_become_the_same(folder, tmp_path, precision):
    other = tmp_path / "other"
    convert(open_checkpoint(write_original(tmp_path / "original")), other, precision, quiet)
    assert (other / "weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()
    from tokenizers import Tokenizer

    stored, assembled = (Tokenizer.from_file(str(each / "tokenizer.json")) for each in (folder, other))
    for text in ("Hello, world's 123", "你好，世界\n<|im_start|>system\n<asr_text>", "é ﬁ 한국어\t\tok  "):
        ids = stored.encode(text, add_special_tokens=False).ids
        assert assembled.encode(text, add_special_tokens=False).ids == ids
        assert assembled.decode(ids) == stored.decode(ids)


def test_progress_ends_at_the_whole(tmp_path):
    told = []
    convert(CHECKPOINT, tmp_path / "made", "int8", lambda done, whole: told.append((done, whole)))
    assert told == sorted(told)
    assert told[-1] == (CHECKPOINT.size, CHECKPOINT.size)


@pytest.mark.qwen  # the extra brings safetensors
def test_safetensors_reads_it(folder):
    from safetensors import safe_open

    with safe_open(folder / "weights.safetensors", "np") as stored:
        norms = [name for name in stored.keys() if "norm" in name]  # noqa: SIM118  it is no dict
        assert all((stored.get_tensor(name) == EXACT.array(name)).all() for name in norms)
    assert len(norms) > 10


def refused(folder, says):
    with pytest.raises(SetupError, match=says) as caught:
        open_converted(folder)
    assert "tingdao convert FOLDER" in str(caught.value) or "Download" in str(caught.value)


def rewrite(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_another_version_is_refused_and_converted_anew(folder):
    assert converted_from(folder, CHECKPOINT)
    rewrite(folder, lambda config: config["tingdao"].update(format=0))
    refused(folder, r"another version of Tingdao \(format 0; this one reads 1\)")
    assert not converted_from(folder, CHECKPOINT)


def test_a_copy_that_broke_off_is_refused(folder):
    file = folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    refused(folder, "damaged or was not copied to its end")


def test_a_folder_that_contradicts_itself_is_refused(folder):
    rewrite(folder, lambda config: config["text_config"].update(intermediate_size=64))
    refused(folder, "contradicts itself at model.language_model.layers.0.mlp")


def test_an_incomplete_config_is_refused(folder):
    rewrite(folder, lambda config: config["text_config"].pop("head_dim"))
    refused(folder, "incomplete or wrong at 'head_dim'")


def test_a_missing_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    refused(folder, "has no tokenizer.json")


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(openvino_weights.shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(SetupError, match=r"has free \(0\.00 GB\).* serve --model OTHER"):
        convert(CHECKPOINT, tmp_path / "made", "int8", quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_is_said_and_left_as_it_was(tmp_path, monkeypatch):
    def full(file, layout, pieces):
        file.write_bytes(b"a part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    convert(CHECKPOINT, tmp_path / "made", "int8", quiet)
    monkeypatch.setattr(openvino_weights, "_write", full)
    with pytest.raises(
        SetupError, match=r"No space left on device\). They need 0\.00 GB\. Make room, or .* --to OTHER"
    ):
        convert(CHECKPOINT, tmp_path / "made", "int4", quiet)
    assert [file.name for file in tmp_path.iterdir()] == ["made"]
    assert open_converted(tmp_path / "made").precision == "int8"


def test_what_a_killed_process_left_goes_with_the_next_conversion(tmp_path):
    old, new = tmp_path / ".made-killed", tmp_path / ".made-another"
    for left in (old, new):
        left.mkdir()
        (left / "weights.safetensors").write_bytes(b"half of it")
    for path in (*old.iterdir(), old):
        os.utime(path, times=(0, 0))
    convert(CHECKPOINT, tmp_path / "made", "int8", quiet)
    # The other one may still be at work.
    assert sorted(file.name for file in tmp_path.iterdir()) == [".made-another", "made"]


def test_what_breaks_off_leaves_nothing_behind(tmp_path):
    def stop(done, whole):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(CHECKPOINT, tmp_path / "made", "int8", stop)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"cannot be written .* --to OTHER"):
        convert(CHECKPOINT, tmp_path / "file" / "made", "int8", quiet)


def test_pages_that_were_given_back_are_read_again(folder):
    made = open_converted(folder)
    assert isinstance(made, Converted)
    before = made.matrix("lm_head.weight").numbers.copy()
    made.release()
    assert (made.matrix("lm_head.weight").numbers == before).all()


def test_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TINGDAO_STATE_DIR", str(tmp_path))
    done = CliRunner().invoke(cli.main, ["convert", str(TRAINED)])
    assert done.exit_code == 0, done.output
    assert open_converted(tmp_path / "models" / "tiny-qwen3-asr-int8").precision == "int8"
    done = CliRunner().invoke(cli.main, ["convert", str(TRAINED), "--int4", "--to", str(tmp_path / "four")])
    assert done.exit_code == 0, done.output
    assert open_converted(tmp_path / "four").precision == "int4"
    assert "change what is recognised" in done.output
    done = CliRunner().invoke(cli.main, ["check", str(tmp_path / "four")])
    assert (done.exit_code, "converted to int4" in done.output) == (0, True)
    done = CliRunner().invoke(cli.main, ["convert", str(tmp_path)])
    assert (done.exit_code, "config.json is missing" in done.output) == (2, True)


def test_nothing_heavy_is_imported_to_convert(tmp_path):
    code = (
        "import sys; from tingdao import cli; "
        f"cli.main(['convert', {str(TRAINED)!r}, '--to', {str(tmp_path / 'made')!r}], standalone_mode=False); "
        "assert not {'torch', 'transformers', 'openvino'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
