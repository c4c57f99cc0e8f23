import pytest

from tingdao.errors import UnknownLanguage
from tingdao.languages import NAMES, parse

KNOWN = frozenset(NAMES)


@pytest.mark.parametrize(
    ("written", "code"),
    [("zh", "zh"), ("zh-CN", "zh"), ("ZH_cn", "zh"), ("Chinese", "zh"), ("en-US", "en"), (" english ", "en"),
     ("zh-HK", "yue"), ("yue", "yue"), ("auto", None), ("", None), (None, None)],
)  # fmt: skip
def test_languages_as_clients_write_them(written, code):
    assert parse(written, KNOWN) == code


@pytest.mark.parametrize("written", ["klingon", "xx", "z", "zhongwen", "en;zh", "🙂", "a" * 1000])
def test_what_is_unknown_is_refused_with_the_codes_there_are(written):
    with pytest.raises(UnknownLanguage, match="yue, zh") as caught:
        parse(written, KNOWN)
    assert caught.value.param == "language"
    assert len(caught.value.message) < 400
