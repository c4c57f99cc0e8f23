import threading

import pytest

import punctuation_model
from tingdao.engines.punctuation import LONGEST_SENTENCE, WINDOW, PunctuationModel
from tingdao.errors import SetupError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return PunctuationModel.load(punctuation_model.write(tmp_path_factory.mktemp("punctuation")))


class Counted(PunctuationModel):
    """Notes how many tokens it is given at once."""

    def marks_in_view(self, tokens):
        self.seen = [*getattr(self, "seen", []), len(tokens)]
        return super().marks_in_view(tokens)


def test_marks_are_full_width_and_stand_behind_their_tokens(model):
    assert model.marks(list("我去了但你去了吗")) == ["", "", "，", "", "", "", "", "？"]
    assert model.marks(["hello", "我"]) == ["，", ""]
    assert model.marks([]) == []


def test_unknown_tokens_and_capitals_are_no_trouble(model):
    assert model.marks(["Hello", "界", "𠮷", "HELLO", "去"]) == ["，", "", "", "，", ""]


@pytest.mark.parametrize("before", range(WINDOW - 4, 3 * WINDOW + 3))
def test_windows_change_no_mark(model, before):
    tokens = list("我" * before + "了吗" + "去了" * 30 + "我" * 7)
    assert model.marks(tokens) == model.marks_in_view(tokens)
    assert model.marks(tokens)[before : before + 2] == ["", "？"]


def test_a_sentence_without_end_is_ended_at_a_comma_and_memory_stays_bounded(tmp_path):
    model = Counted.load(punctuation_model.write(tmp_path))
    marks = model.marks(list(("我" * 30 + "但") * 40))
    assert len(marks) == 31 * 40
    assert "。" in marks
    assert max(model.seen) <= LONGEST_SENTENCE + WINDOW
    model.seen.clear()
    assert model.marks(list("我" * 2000)) == [""] * 2000
    assert max(model.seen) <= LONGEST_SENTENCE + WINDOW


def test_threads_share_a_model(model):
    texts = [list("我" * number + "了但你去了吗") for number in range(1, 9)]
    expected, found = [model.marks(text) for text in texts], {}
    threads = [
        threading.Thread(target=lambda n=n: found.__setitem__(n, [model.marks(texts[n]) for _ in range(50)]))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[n] == [expected[n]] * 50 for n in range(8))


def test_older_folders_and_unquantised_models_load_too(tmp_path):
    folder = punctuation_model.write(tmp_path, config="punc.yaml", name="model.onnx")
    assert PunctuationModel.load(folder).marks(["吗"]) == ["？"]
    (folder / "tokens.json").unlink()
    tokens = "".join(f"- '{token}'\n" for token in punctuation_model.TOKENS)
    with (folder / "punc.yaml").open("a", encoding="utf-8") as config:
        config.write(f"token_list:\n{tokens}")
    assert PunctuationModel.load(folder).marks(["吗", "𠮷"]) == ["？", ""]


def spoil(folder, name, content):
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (lambda folder: (folder / "model_quant.onnx").unlink(), "no model_quant.onnx and no model.onnx"),
        (lambda folder: (folder / "config.yaml").unlink(), "no config.yaml and no punc.yaml"),
        (lambda folder: (folder / "tokens.json").unlink(), "no tokens.json"),
        (lambda folder: spoil(folder, "tokens.json", b"{]"), "not JSON"),
        (lambda folder: spoil(folder, "tokens.json", b"\xff\xfe"), "not JSON"),
        (lambda folder: spoil(folder, "tokens.json", b'{"a": 1}'), "does not give a list of tokens"),
        (lambda folder: spoil(folder, "config.yaml", b"a: [b"), "not YAML"),
        (lambda folder: spoil(folder, "config.yaml", b"- a"), "no model_conf.punc_list"),
        (lambda folder: spoil(folder, "config.yaml", b"model_conf: {punc_list: [_, a]}"), "no model_conf.punc_list"),
        (lambda folder: spoil(folder, "config.yaml", "punc_list: [_, 。]".encode()), "should be"),
        (lambda folder: spoil(folder, "model_quant.onnx", b"no model"), "cannot be loaded"),
        (lambda folder: spoil(folder, "tokens.json", b'["a"' + b', "b"' * 50 + b"]"), "does not run"),
        (lambda folder: spoil(folder, "jieba_usr_dict", b""), "splits Chinese into words"),
        (lambda folder: punctuation_model.write(folder, inputs=3), "for live use"),
    ],
)
def test_a_folder_that_lacks_something_says_so(tmp_path, spoilt, said):
    punctuation_model.write(tmp_path)
    spoilt(tmp_path)
    with pytest.raises(SetupError, match=said):
        PunctuationModel.load(tmp_path)
    with pytest.raises(SetupError, match="no model_quant"):
        PunctuationModel.load(tmp_path / "absent")
