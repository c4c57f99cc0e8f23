import pytest

from tingdao.text.phonetics import distance, joined, key, skeleton


@pytest.mark.parametrize(
    ("heard", "meant"),
    [
        ("Axenture", "Accenture"),
        ("graphana", "Grafana"),
        ("reddis", "Redis"),
        ("cafka", "Kafka"),
        ("fizer", "Pfizer"),
        ("Deloit", "Deloitte"),
        ("mackinsey", "McKinsey"),
    ],
)
def test_words_that_sound_the_same_share_a_key(heard, meant):
    assert key(heard) == key(meant)


@pytest.mark.parametrize(("one", "other"), [("get", "git"), ("docker", "doctor"), ("rust", "roast"), ("go", "joe")])
def test_others_do_not(one, other):
    assert key(one) != key(other)


def test_words_in_one_breath():
    assert joined([key("pie"), key("torch")]) == key("pytorch")
    assert joined(["post", "tres"]) == "postres"
    assert joined([]) == ""


def test_the_skeleton_has_no_vowel_but_the_first():
    assert skeleton("anTropik") == "anTrpk"
    assert skeleton("") == ""


def test_distance():
    assert distance("redis", "redis", 1.0) == 0.0
    assert distance("redis", "rodis", 1.0) == pytest.approx(0.3)
    assert distance("redis", "retis", 1.0) == pytest.approx(0.4)
    assert distance("redis", "reds", 1.0) == pytest.approx(0.5)
    assert distance("redis", "remis", 2.0) == pytest.approx(1.0)
    assert distance("redis", "kafka", 1.0) > 1.0
    assert distance("a", "abcdefghij", 1.0) > 1.0
    assert distance("retis", "redis", 1.0) == distance("redis", "retis", 1.0)
