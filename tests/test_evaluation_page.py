"""The page of an evaluation: what was wrong, worst first, and nothing that runs or is fetched."""

from html.parser import HTMLParser

from tingdao.evaluation import rates, result
from tingdao.evaluation_page import page


def made(*texts, language="en", failed=None):
    results = [
        result(name, said, heard, language=language, detected=language, duration=2, seconds=1)
        for name, said, heard in texts
    ]
    return page("Evaluation", ["whisper-base"], rates(results), results, failed or {})


def test_the_difference_is_marked_and_the_worst_comes_first():
    text = made(("good.wav", "a b", "a b"), ("bad.wav", "one two three four", "one too three four"),
                ("worst.wav", "red green", "red blue sky"))  # fmt: skip
    assert '<p lang="en" dir="auto">one <del>two</del> <ins>too</ins> three four</p>' in text
    assert "red <del>green</del> <ins>blue sky</ins>" in text
    assert text.index("worst.wav") < text.index("bad.wav") < text.index("good.wav")
    assert "What was wrong: 2 of 3 recordings" in text
    assert "Without a mistake: 1 recordings" in text


def test_chinese_has_no_spaces_in_the_difference():
    assert "你<del>好</del><ins>们</ins>吗" in made(("a.wav", "你好吗", "你们吗"), language="zh")


def test_nothing_from_outside_becomes_markup():
    bad = "<script>alert(1)</script>\"'&"
    text = made((bad, f"{bad} <b>", "<i>x</i>"), ("fine<b>", "a", "a"), language='en"><script>', failed={bad: bad})
    seen = set()

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.add(tag)
            assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)

    Tags().feed(text)
    assert not seen & {"script", "b", "i", "img", "link", "a"}
    assert "default-src 'none'" in text


def test_what_does_not_count_is_listed():
    assert "<li>lost.wav: there is no such file</li>" in made(
        ("a.wav", "a", "a"), failed={"lost.wav": "there is no such file"}
    )
