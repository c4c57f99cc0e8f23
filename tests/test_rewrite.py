from tingdao.text.rewrite import Edit, edits_between, rewritten
from tingdao.types import Correction, Segment, Word


def segment(text, words, *corrections):
    timed = tuple(Word(word, number, number + 0.5) for number, word in enumerate(words))
    return Segment(text, 0.0, len(words), "en", timed, corrections=corrections)


def show(segment):
    return [(word.text, word.start, word.end) for word in segment.words]


def test_edits_between_two_texts_turn_one_into_the_other():
    for old, new in (("", "a"), ("ab", ""), ("中间协会好", "中介协会好"), ("same", "same"), ("one two", "1 2!")):
        changed = rewritten(Segment(old, 0, 1), edits_between(old, new))
        assert changed.text == new
    assert edits_between("same", "same") == []


def test_characters_keep_their_own_times():
    before = segment("找中间协会。", list("找中间协会"))
    after = rewritten(before, [Edit(1, 5, "中介协会")])
    assert after.text == "找中介协会。"
    assert show(after) == [(c, n, n + 0.5) for n, c in enumerate("找中介协会")]


def test_words_that_become_one_span_the_time_of_all():
    before = segment("We run cooper netties, and more.", ["We", "run", "cooper", "netties", "and", "more"])
    after = rewritten(before, [Edit(7, 21, "Kubernetes")])
    assert after.text == "We run Kubernetes, and more."
    assert show(after)[2:4] == [("Kubernetes", 2, 3.5), ("and", 4, 4.5)]


def test_an_edit_within_a_word_changes_that_word_only():
    after = rewritten(segment("the end. Of it", ["the", "end", "Of", "it"]), [Edit(7, 8, ""), Edit(9, 10, "o")])
    assert after.text == "the end of it"
    assert [word.text for word in after.words] == ["the", "end", "of", "it"]


def test_two_edits_in_one_word():
    after = rewritten(segment("abcdef x", ["abcdef", "x"]), [Edit(0, 1, "A"), Edit(5, 6, "F")])
    assert [word.text for word in after.words] == ["AbcdeF", "x"]


def test_a_word_that_is_deleted_goes():
    after = rewritten(segment("uh yes", ["uh", "yes"]), [Edit(0, 3, "")])
    assert after.text == "yes"
    assert show(after) == [("yes", 1, 1.5)]


def test_corrections_move_with_the_text_and_go_when_they_are_overwritten():
    kept, lost = Correction("b", "B", 2, exact=True), Correction("d", "D", 6, exact=True)
    after = rewritten(segment("a B c D", ["a", "B", "c", "D"], kept, lost), [Edit(0, 1, "and"), Edit(6, 7, "x")])
    assert after.text == "and B c x"
    assert after.corrections == (Correction("b", "B", 4, exact=True),)


def test_words_that_are_not_in_the_text_stay():
    before = segment("one", ["one", "gone"])
    assert show(rewritten(before, [Edit(3, 3, ".")])) == show(before)


def test_without_words_only_the_text_changes():
    assert rewritten(Segment("a", 0, 1), [Edit(0, 1, "b")]) == Segment("b", 0, 1)
