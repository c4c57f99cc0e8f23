"""The page as it lies in the package: whole, bilingual, and quiet on the network. Its behaviour is an e2e test."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import tingdao

WEB = Path(tingdao.__file__).parent / "web"
HOOKS = (
    "file",
    "language",
    "start",
    "cancel",
    "progress",
    "status",
    "transcript",
    "copy",
    "download-srt",
    "notice",
    "error",
    "key",
    "enter",
)


class Tags(HTMLParser):
    """All start tags of a page, as (name, attributes)."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def read(name):
    return (WEB / name).read_text("utf-8")


@pytest.fixture(scope="module")
def tags():
    return Tags(read("index.html")).found


def scripts():
    return {path.name: path.read_text("utf-8") for path in WEB.glob("*.js")}


def strings():
    """Keys of the texts of each language."""
    blocks = re.findall(r"^  (en|zh): \{\n(.*?)^  \},", read("strings.js"), re.MULTILINE | re.DOTALL)
    return {language: set(re.findall(r"^    (\w+):", block, re.MULTILINE)) for language, block in blocks}


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks(tags, hook):
    assert [attrs.get("id") for _, attrs in tags if attrs.get("data-testid") == hook] == [hook]


def test_ids_are_unique(tags):
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_nothing_that_a_strict_content_security_policy_refuses(tags):
    for tag, attrs in tags:
        assert tag != "style"
        assert tag != "script" or "src" in attrs
        assert "style" not in attrs
        assert not [name for name in attrs if name.startswith("on")]
    for text in scripts().values():
        assert not re.search(r"\beval\(|new Function|innerHTML|insertAdjacentHTML|\.style\b|setAttribute\(.style", text)


def test_every_file_that_is_named_is_there(tags):
    named = [attrs[name] for tag, attrs in tags for name in ("src", "href") if name in attrs and tag != "a"]
    named += [file for text in scripts().values() for file in re.findall(r'from "\./([^"]+)"', text)]
    assert {"app.js", "style.css", "favicon.svg", "api.js", "strings.js", "subtitles.js"} <= set(named)
    for name in named:
        assert (WEB / name).is_file(), name


def test_nothing_comes_from_elsewhere():
    for path in WEB.iterdir():
        for address in re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"')]*", path.read_text("utf-8")):
            assert address == "http://www.w3.org/2000/svg", f"{path.name}: {address}"


def test_both_languages_have_the_same_texts():
    found = strings()
    assert set(found) == {"en", "zh"}
    assert found["en"] == found["zh"]
    assert len(found["en"]) > 20


def test_every_text_exists_and_is_used(tags):
    code = "".join(scripts().values())
    shown = {attrs[name] for _, attrs in tags for name in ("data-text", "data-label") if name in attrs}
    shown |= set(re.findall(r'(?:put\([\w.]+|say\(|new ServiceError\([^,]+), "(\w+)"', code))
    texts = strings()["en"]
    assert shown <= texts, shown - texts
    assert texts <= shown | set(re.findall(r'"(\w+)"', code)), "a text that nothing shows"


def test_the_words_before_the_script_runs_are_the_english_ones(tags):
    english = re.search(r"^  en: \{\n(.*?)^  \},", read("strings.js"), re.MULTILINE | re.DOTALL)[1]
    texts = dict(re.findall(r'^    (\w+): "(.*)",$', english, re.MULTILINE))
    for key, shown in re.findall(r'data-text="(\w+)"[^>]*>([^<]+)<', read("index.html")):
        assert shown == texts[key]


def test_fields_have_labels(tags):
    labelled = {attrs["for"] for tag, attrs in tags if tag == "label"}
    assert {attrs["id"] for tag, attrs in tags if tag in {"input", "select"}} == labelled


def test_what_changes_is_announced(tags):
    roles = {attrs.get("id"): attrs.get("role") for _, attrs in tags}
    assert roles["status"] == "status"
    assert roles["error"] == "alert"
