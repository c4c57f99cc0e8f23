"""Folders of Qwen3-ASR, whole and broken in every way that users meet, without torch."""

import json
import struct
from math import prod

import pytest

from tingdao.engines.qwen.weights import RENAMES, expected, open_checkpoint
from tingdao.errors import SetupError

AUDIO = {
    "num_mel_bins": 128,
    "d_model": 8,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "downsample_hidden_size": 4,
    "output_dim": 8,
    "n_window": 50,
    "n_window_infer": 800,
    "activation_function": "gelu",
}
TEXT = {
    "vocab_size": 32,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "intermediate_size": 16,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000},
}
NATIVE = {
    "architectures": ["Qwen3ASRForConditionalGeneration"],
    "model_type": "qwen3_asr",
    "audio_config": AUDIO,
    "text_config": TEXT,
}


def write_safetensors(file, shapes, kind="F32", size=4):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        length = prod(shape) * size
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + length]}
        offset += length
    head = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(head)) + head + bytes(offset))


def in_original(name):
    for old, new in sorted(RENAMES, key=lambda pair: -len(pair[1])):
        if name.startswith(new):
            return old + name.removeprefix(new)
    raise AssertionError(name)


def write_config(folder, config):
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.fixture
def native(tmp_path):
    write_config(tmp_path, NATIVE)
    write_safetensors(tmp_path / "model.safetensors", expected(NATIVE))
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    return tmp_path


@pytest.fixture
def original(tmp_path):
    text = {name: value for name, value in TEXT.items() if name != "rope_parameters"} | {"rope_theta": 5e5}
    thinker = {"model_type": "qwen3_asr_thinker", "audio_config": AUDIO, "text_config": text}
    write_config(tmp_path, {"model_type": "qwen3_asr", "thinker_config": thinker})
    shapes = {in_original(name): shape for name, shape in expected(NATIVE).items()}
    shapes["thinker.lm_head.weight"] = (TEXT["vocab_size"], TEXT["hidden_size"])
    write_safetensors(tmp_path / "model.safetensors", shapes)
    (tmp_path / "vocab.json").write_text("{}", encoding="utf-8")
    (tmp_path / "merges.txt").write_text("", encoding="utf-8")
    return tmp_path


def refused(folder, says):
    with pytest.raises(SetupError, match=says) as caught:
        open_checkpoint(folder)
    return str(caught.value)


def test_native_layout(native):
    found = open_checkpoint(native)
    assert found.layout == "native"
    assert found.entries.keys() == expected(NATIVE).keys()
    assert found.size == sum(4 * prod(shape) for shape in expected(NATIVE).values())


def test_original_layout_is_the_same_in_native_terms(original):
    found = open_checkpoint(original)
    assert found.layout == "original"
    # The output matrix is stored, and is the embeddings once more: it is not taken.
    assert found.entries.keys() == expected(NATIVE).keys()
    assert found.config["text_config"]["rope_parameters"]["rope_theta"] == 5e5
    assert found.config["model_type"] == "qwen3_asr"


def test_an_output_matrix_of_its_own_is_wanted_when_it_is_not_tied(native):
    write_config(native, NATIVE | {"text_config": TEXT | {"tie_word_embeddings": False}})
    assert "lm_head.weight" in refused(native, "only a part of the weights")


def test_weights_in_several_files(native):
    shapes = list(expected(NATIVE).items())
    halves = {"model-1.safetensors": dict(shapes[:20]), "model-2.safetensors": dict(shapes[20:])}
    (native / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    (native / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    for file, part in halves.items():
        write_safetensors(native / file, part)
    assert open_checkpoint(native).entries[shapes[30][0]].file.name == "model-2.safetensors"
    (native / "model-2.safetensors").unlink()
    refused(native, "lacks 1 of 2 weight files: model-2.safetensors")


def test_an_index_that_leads_out_of_the_folder(native):
    index = {"weight_map": {"a": "../model.safetensors"}}
    (native / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    refused(native, "not a safetensors file beside it")


def test_no_folder(tmp_path):
    refused(tmp_path / "nowhere", "is not a folder")


def test_no_config(native):
    (native / "config.json").unlink()
    refused(native, r"config\.json is missing")


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "qwen3_asr", "audio_config": 3, "text_config": {}}'])
def test_unreadable_config(native, content):
    (native / "config.json").write_text(content, encoding="utf-8")
    refused(native, "cannot be read|not a JSON object|another kind of model")


def test_incomplete_config(native):
    write_config(native, NATIVE | {"audio_config": {"n_window": 50}})
    refused(native, "incomplete or wrong at 'd_model'")


def test_another_architecture(native):
    write_config(native, {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"]})
    refused(native, r"another kind of model \(whisper\)")


@pytest.mark.parametrize(
    "config",
    [
        NATIVE | {"architectures": ["Qwen3ASRForTokenClassification"]},
        {"model_type": "qwen3_asr", "thinker_config": NATIVE | {"model_type": "qwen3_forced_aligner"}},
    ],
)
def test_the_aligner_in_the_place_of_the_model(native, config):
    write_config(native, config)
    refused(native, "forced aligner")


def test_a_newer_kind(native):
    write_config(native, NATIVE | {"text_config": TEXT | {"attention_bias": True}})
    refused(native, r"does not know: text_config\.attention_bias is True")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_code_in_the_folder(native, file):
    content = (NATIVE if file == "config.json" else {}) | {"auto_map": {"AutoModel": "evil.Model"}}
    (native / file).write_text(json.dumps(content), encoding="utf-8")
    refused(native, "auto_map")


def test_no_weights(native):
    (native / "model.safetensors").unlink()
    refused(native, "holds no weights")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.pkl"])
def test_pickles_only(native, name):
    (native / "model.safetensors").rename(native / name)
    assert "safetensors of the same model" in refused(native, "pickled weights only")


@pytest.mark.parametrize("names", [["openvino_encoder_model.xml", "openvino_encoder_model.bin"], ["q8_0.gguf"]])
def test_an_export_for_another_program(native, names):
    (native / "model.safetensors").unlink()
    for name in names:
        (native / name).write_bytes(b"")
    assert "from the original weights" in refused(native, rf"export for another program \({names[0]}\)")


def test_a_download_that_broke_off(native):
    file = native / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(native, "not downloaded to its end")
    file.write_bytes(file.read_bytes()[:5])
    refused(native, "not downloaded to its end")


def test_a_file_that_is_not_safetensors(native):
    (native / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 3)
    refused(native, "damaged")


@pytest.mark.parametrize("header", [b"[1, 2]", b'{"a": 1}', b'{"a": {"dtype": "F32"}}', b"\xff\xff"])
def test_a_broken_header(native, header):
    (native / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    refused(native, "damaged")


def test_half_the_tensors(native):
    half = dict(list(expected(NATIVE).items())[::2])
    write_safetensors(native / "model.safetensors", half)
    assert f"of {len(expected(NATIVE))} tensors are missing" in refused(native, "only a part of the weights")


def test_a_tensor_of_another_shape(native):
    shapes = expected(NATIVE) | {"model.language_model.norm.weight": (9,)}
    write_safetensors(native / "model.safetensors", shapes)
    refused(native, r"norm\.weight has the shape \(9,\), and config\.json asks for \(8,\)")


def test_quantised_weights(native):
    write_safetensors(native / "model.safetensors", expected(NATIVE), kind="F8_E4M3", size=1)
    refused(native, "type F8_E4M3")


def test_no_tokenizer(native):
    (native / "tokenizer.json").unlink()
    (native / "vocab.json").write_text("{}", encoding="utf-8")
    refused(native, "has no tokenizer")
