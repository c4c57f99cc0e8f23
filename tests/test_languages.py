import pytest

from tingdao.errors import UnknownLanguage
from tingdao.languages import NAMES, OTHER_NAMES, name_of, parse

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


def test_every_language_has_one_name_by_which_it_is_asked_for():
    names = NAMES | OTHER_NAMES
    assert len(set(names.values())) == len(names) == len(NAMES) + len(OTHER_NAMES)
    for code, name in names.items():
        assert name_of(code) == name
        assert parse(name, frozenset(names)) == code
    assert name_of("xx") == "xx"
