"""Manifests as people write them, and what is wrong with some."""

import pytest

from tingdao import manifest
from tingdao.errors import SetupError


@pytest.fixture
def read(tmp_path):
    def of(text, name="m.tsv"):
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return manifest.read(tmp_path / name)

    return of


def rows(found):
    return [(entry.name, entry.text, entry.language) for entry in found.entries]


@pytest.mark.parametrize("text", [
    "file\ttext\tlanguage\na.wav\tHi, you\tEnglish\nb c.wav\t你好\tzh-CN\n",
    "\ufefffile,text,language\r\na.wav,\"Hi, you\",en\r\n\r\nb c.wav,你好,zh\r\n",
    "file;text;language\na.wav;Hi, you;en\nb c.wav;你好;zh\n",
    "Path\tnote\tSentence\tlocale\na.wav\tx\tHi, you\ten\nb c.wav\tx\t你好\tzh\n",
    '{"audio_filepath": "a.wav", "text": "Hi, you", "lang": "en"}\n\n'
    '{"file": "b c.wav", "text": "你好", "language": "zh"}',
])  # fmt: skip
def test_the_forms_people_have(read, text):
    found = read(text)
    assert rows(found) == [("a.wav", "Hi, you", "en"), ("b c.wav", "你好", "zh")]
    assert found.broken == {}


def test_files_are_relative_to_the_manifest(read, tmp_path):
    found = read("file\ttext\nsub/a.wav\tx\n/abs/b.wav\ty\n")
    assert [str(entry.file) for entry in found.entries] == [str(tmp_path / "sub/a.wav"), "/abs/b.wav"]


def test_the_recordings_of_the_tests(recordings):
    found = manifest.read(recordings / "manifest.tsv")
    assert len(found.entries) == 18
    assert not found.broken
    assert all(entry.file.is_file() and entry.text and entry.language for entry in found.entries)


def test_a_quote_in_a_table_with_tabs_is_part_of_the_text(read):
    assert rows(read('file\ttext\na.wav\t"No\nb.wav\tyes\n')) == [("a.wav", '"No', None), ("b.wav", "yes", None)]


def test_an_empty_text_means_that_nothing_is_said(read):
    assert rows(read("file\ttext\nsilence.wav\t\n")) == [("silence.wav", "", None)]


def test_lines_that_cannot_be_used_are_told_and_the_others_count(read):
    found = read("file\ttext\na.wav\tx\n\tonly text\nb.wav\n")
    assert rows(found) == [("a.wav", "x", None)]
    assert found.broken == {"line 3": "names no file", "line 4": "has no text for b.wav"}
    found = read(
        '{"file": "a.wav", "text": "x"}\n{"file": \n[1]\n{"file": "c", "text": 3}\n{"file": "d", "text": "\\ud800"}'
    )
    assert rows(found) == [("a.wav", "x", None)]
    assert list(found.broken) == ["line 2", "line 3", "line 4", "line 5"]


@pytest.mark.parametrize(("text", "said"), [
    ("", "is empty"),
    ("\n \n", "is empty"),
    ("file\ttext\n", "nothing below it"),
    ("file\tlanguage\na.wav\ten\n", "no column 'text'; its heading is: file, language"),
    ("a.wav,hello\n", "no column 'file'"),
    ("file\ttext\n\tx\n", "no line that can be used .line 2 names no file"),
    ('{"path": 3}', "no line that can be used .line 1 names no file"),
    ("file\ttext\na.wav\tà\n".encode("latin-1"), "not a text in UTF-8"),
    (f"file,text\na.wav,{'x' * 200_000}\n", "cannot be read at line 2"),
])  # fmt: skip
def test_what_cannot_be_used_at_all_says_what_to_do(read, text, said):
    with pytest.raises(SetupError, match=said):
        read(text)


def test_a_manifest_that_is_not_there(tmp_path):
    with pytest.raises(SetupError, match="No such file"):
        manifest.read(tmp_path / "none.tsv")
    with pytest.raises(SetupError, match="Is a directory"):
        manifest.read(tmp_path)
