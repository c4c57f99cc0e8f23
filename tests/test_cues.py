import random
import re
import time
from itertools import pairwise

import pytest

from tingdao.pipeline.cues import LINE, LONGEST, SHORTEST, Cue, cues
from tingdao.types import Segment, Transcript, Word

ENGLISH = (
    "And so, my fellow Americans, ask not what your country can do for you; "
    "ask what you can do for your country. "
    "We choose to go to the moon in this decade, not because that is easy, but because it is hard."
)
CHINESE = (
    "今天我们要讨论的是语音识别系统的部署问题，尤其是在没有显卡的机器上怎样才能跑得更快。"
    "首先，我们来看Qwen3-ASR这个model的大小，它有0.6B和1.7B两种；其次，再看看“延迟”和吞吐量之间的关系。谢谢！"
)


def transcript(*segments, duration=100.0, language="en"):
    return Transcript(tuple(segments), language, duration, "whisper-base")


def words(text, start=0.0, each=0.4, gap=0.0):
    """Words evenly spaced, as an aligner gives them: no punctuation."""
    found = re.findall(r"[\w'-]+", text)
    return tuple(Word(w, start + i * (each + gap), start + i * (each + gap) + each) for i, w in enumerate(found))


def letters(text):
    return re.sub(r"\s", "", text)


def columns(line):
    return sum(2 if "\u2e80" <= c <= "\uffef" else 1 for c in line)


def shown(made):
    return "".join(letters(line) for cue in made for line in cue.lines)


@pytest.mark.parametrize(
    ("segments", "duration", "expected"),
    [
        ([(1.0, 1.2)], 10, [(1000, 2000)]),  # kept long enough to be read
        ([(1.0, 1.2)], 1.5, [(1000, 1500)]),  # but not past the end of the recording
        ([(1.0, 1.2), (1.4, 3)], 10, [(1000, 1400), (1400, 3000)]),  # nor into the next
        ([(1.0, 3.0), (2.0, 4.0)], 10, [(1000, 2000), (2000, 4000)]),  # overlap
        ([(5.0, 6.0), (1.0, 2.0)], 10, [(1000, 2000), (5000, 6000)]),  # wrong order
        ([(2.0, 2.0), (2.0, 2.0)], 10, [(2000, 2001), (2001, 3001)]),  # no length
        ([(3.0, 2.0)], 10, [(3000, 4000)]),  # backwards
        ([(1.0, 30.0)], 60, [(1000, 8000)]),  # one short word does not stay for half a minute
    ],
)
def test_cues_never_overlap(segments, duration, expected):
    made = cues(transcript(*(Segment("ah", *times) for times in segments), duration=duration))
    assert [(cue.start, cue.end) for cue in made] == expected


def test_much_text_stays_longer_where_there_is_room():
    line = "x" * LINE
    made = cues(transcript(Segment(line, 0, 0.5), Segment("next", 9, 10)))
    assert made[0].end == round(LINE / 20 * 1000)


def test_a_short_segment_is_one_cue_with_its_own_times():
    assert cues(transcript(Segment(" Hello,  world. ", 3.0, 5.0))) == [Cue(3000, 5000, ("Hello, world.",))]


def test_english_is_cut_at_sentences_and_clauses():
    made = cues(transcript(Segment(ENGLISH, 0, 16)))
    assert [cue.lines for cue in made] == [
        ("And so, my fellow Americans,", "ask not what your country can do for you;"),
        ("ask what you can do for your country.",),
        ("We choose to go to the", "moon in this decade,"),
        ("not because that is easy,", "but because it is hard."),
    ]


def test_a_full_stop_inside_a_sentence_does_not_end_it():
    text = "He said that about 3.5 million people, e.g. farmers, were there and saw what he had done with it."
    assert [cue.lines for cue in cues(transcript(Segment(text, 0, 9)))] == [
        ("He said that about 3.5 million people,", "e.g. farmers,"),
        ("were there and saw what", "he had done with it."),
    ]


def test_two_short_sentences_share_a_cue_and_two_long_ones_do_not():
    short, long = "It works. I saw it.", "This is the first of two sentences. This one here is the second one."
    assert [cue.lines for cue in cues(transcript(Segment(short, 0, 2)))] == [(short,)]
    assert [cue.lines for cue in cues(transcript(Segment(long, 0, 5)))] == [
        ("This is the first of two sentences.",),
        ("This one here is the second one.",),
    ]


def test_chinese_is_cut_without_spaces():
    made = cues(transcript(Segment(CHINESE, 0, 24), language="zh"))
    assert made[0].lines == ("今天我们要讨论的是语音识别系统的部署问题，",)
    assert made[1].lines == ("尤其是在没有显卡的机器上怎样才能跑得更快。",)
    assert shown(made) == CHINESE
    for cue in made:
        for line in cue.lines:
            assert columns(line) <= LINE
            assert line[0] not in "，。；！”、"
            assert line[-1] != "“"
    assert any("Qwen3-ASR" in line for cue in made for line in cue.lines)
    assert any("0.6B" in line for cue in made for line in cue.lines)


def test_brackets_and_quotes_stay_with_what_they_hold():
    for opening, closing in ("（）", "“”", "《》", "「」"):
        for n in range(1, 60):
            text = "一" * n + opening + "二" * n + closing + "三" * n
            for cue in cues(transcript(Segment(text, 0, n * 0.6), language="zh")):
                for line in cue.lines:
                    assert line[-1] != opening
                    assert line[0] != closing


def test_accents_that_are_characters_of_their_own_take_no_room():
    word = "e\u0301" * LINE
    assert [cue.lines for cue in cues(transcript(Segment(f"{word} {word}", 0, 5)))] == [(word, word)]


def test_korean_breaks_at_its_spaces():
    text = (
        "오늘은 음성 인식 시스템의 배포에 대해서 이야기하겠습니다 "
        "그래픽 카드가 없는 기계에서 어떻게 하면 더 빨리 실행할 수 있는지"
    )
    broken = [line for cue in cues(transcript(Segment(text, 0, 14), language="ko")) for line in cue.lines]
    assert len(broken) > 1
    assert " ".join(broken) == text


def test_times_come_from_the_words():
    made = cues(transcript(Segment(ENGLISH, 0, 60, words=words(ENGLISH, start=2.0, each=0.3, gap=0.1))))
    assert len(made) > 3
    spoken = words(ENGLISH, start=2.0, each=0.3, gap=0.1)
    position = 0
    for cue in made:
        count = len(words(" ".join(cue.lines)))
        assert cue.start == round(spoken[position].start * 1000)
        assert cue.end >= round(spoken[position + count - 1].end * 1000)
        position += count
    assert position == len(spoken)


def test_words_with_punctuation_and_spaces_as_whisper_gives_them():
    said = (Word(" Yes,", 1.0, 1.5), Word(" sir.", 4.0, 4.5))
    made = cues(transcript(Segment("Yes, sir.", 0, 6, words=said)))
    assert made == [Cue(1000, 2000, ("Yes,",)), Cue(4000, 5000, ("sir.",))]  # the pause parts them


def test_chinese_words_are_characters():
    said = tuple(Word(c, 1 + i * 0.2, 1.2 + i * 0.2) for i, c in enumerate("你好世界再见"))
    made = cues(transcript(Segment("你好，世界。再见！", 0, 9, words=said), language="zh"))
    assert made == [Cue(1000, 2200, ("你好，世界。再见！",))]


def test_the_end_of_a_cue_is_the_end_of_its_last_character():
    said = (Word("你", 1.0, 2.5), Word("好", 5.0, 6.5))
    made = cues(transcript(Segment("你好", 0, 9, words=said), language="zh"))
    assert made == [Cue(1000, 2500, ("你",)), Cue(5000, 6500, ("好",))]


def test_a_missing_word_is_not_taken_for_a_later_one():
    said = (Word("go", 1, 2), Word("now", 2, 3), Word("because", 3, 4), Word("they", 6, 7), Word("go", 7, 8))
    made = cues(transcript(Segment("Go now because they go", 0, 9, words=said)))
    assert made == [Cue(0, 4000, ("Go now because",)), Cue(6000, 8000, ("they go",))]


def test_a_corrected_word_takes_its_time_from_its_neighbours():
    said = (Word("quen", 1.0, 2.0), Word("is", 2.0, 3.0), Word("here", 8.0, 9.0))
    made = cues(transcript(Segment("Qwen is here", 0, 9, words=said)))
    assert made == [Cue(0, 3000, ("Qwen is",)), Cue(8000, 9000, ("here",))]


def test_words_that_are_not_in_the_text_do_no_harm():
    made = cues(transcript(Segment("something else", 1, 3, words=(Word("zzz", 1, 2), Word("…", 2, 3)))))
    assert made == [Cue(1000, 3000, ("something else",))]


def test_interpolated_times_stay_inside_the_segment_and_follow_the_text():
    made = cues(transcript(Segment("abcd " * 40, 100.0, 114.0), duration=200))
    assert made[0].start == 100_000
    assert made[-1].end == 114_000
    for cue in made[1:]:
        before = "".join(" ".join(c.lines) + " " for c in made if c.start < cue.start)
        assert cue.start == pytest.approx(100_000 + 14_000 * len(before) / 199, abs=2)


def test_too_little_text_for_its_time_is_not_torn_apart():
    made = cues(transcript(Segment("Thank you very much.", 2, 29)))
    assert made == [Cue(2000, 9000, ("Thank you very much.",))]


def test_a_word_longer_than_a_line_is_split():
    address = "https://example.com/" + "path/" * 40
    made = cues(transcript(Segment(f"See {address} there", 0, 20)))
    assert shown(made) == letters(f"See {address} there")
    assert max(len(line) for cue in made for line in cue.lines) <= LINE


def test_marks_that_join_letters_are_kept():
    text = "می\u200cخواهم 👩\u200d🔬 สวัสดี"
    assert shown(cues(transcript(Segment(text, 0, 3)))) == letters(text)


@pytest.mark.parametrize("text", ["—", "“", "（", "...", "。", "«»", "()", '"'])
def test_punctuation_alone(text):
    assert cues(transcript(Segment(text, 0, 2))) == [Cue(0, 2000, (text,))]


ALPHABETS = (
    "abcdefghij      ,.;",
    "今天我们讨论语音识别，。；！“”（）",
    "ab c今天 ，.“”()1,0",
    "あいうえおっーカタカナ、。",
    "가나다라 마바사.",
    "สวัสดีครับ ",
    "a\u0301e\u0300 ",
    "&<>-\n\t\x00\u3000👩\u200d",
    "((([[[“““",
)


def arbitrary(rng):
    """A transcript in any script, with words and without, with gaps, overlaps, wrong order and no length."""
    segments, at = [], rng.choice([0.0, 35990.0])
    for _ in range(rng.randrange(12)):
        text = "".join(rng.choices(rng.choice(ALPHABETS), k=rng.choice([0, 1, 5, 40, 300, 1200])))
        length = rng.choice([0.0, 0.001, 0.5, 5.0, 30.0, len(text) * 0.1])
        said = None
        if rng.random() < 0.5:
            parts = re.findall(r"[^\W_]{1,4}", text)
            edges = sorted(at + rng.random() * length for _ in range(2 * len(parts)))
            if rng.random() < 0.2:
                rng.shuffle(edges)
            said = tuple(
                Word(rng.choice([part, part, part, "zz"]), edges[2 * i], edges[2 * i + 1])
                for i, part in enumerate(parts)
            )
        segments.append(Segment(text, at, at + length, words=said))
        at += rng.choice([0.0, length / 2, length, length, length, length + 3])
    return Transcript(tuple(segments), None, at, "m")


@pytest.mark.parametrize("seed", range(200))
def test_limits_hold_for_any_transcript(seed):
    given = arbitrary(random.Random(seed))
    made = cues(given)

    for cue in made:
        assert 0 <= cue.start < cue.end <= cue.start + LONGEST * 1000 + 1
        assert 1 <= len(cue.lines) <= 2
        for line in cue.lines:
            assert line
            assert line == line.strip()
            assert "\n" not in line
            assert columns(re.sub("[\u0300-\u036f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u200d]", "", line)) <= LINE
    for cue, following in pairwise(made):
        assert cue.end <= following.start
        if min(following.start, given.duration * 1000) - cue.start > SHORTEST * 1000:  # there was room to stay
            assert cue.end - cue.start >= SHORTEST * 1000
    kept = [letters(s.text).replace("\x00", "") for s in given.segments]
    assert sorted(shown(made)) == sorted("".join(kept))
    if all(a.end <= b.start for a, b in pairwise(given.segments)):
        assert shown(made) == "".join(kept)


@pytest.mark.parametrize(
    "segments",
    [
        [Segment(ENGLISH[i % 40 : i % 40 + 25], i * 1.8, i * 1.8 + 1.8) for i in range(4000)],
        [Segment("今天" * 20_000, 0, 9_000)],
        [Segment("word " * 20_000, 0, 9_000, words=words("word " * 20_000))],
        [Segment("(" * 40_000, 0, 9_000)],
        [Segment("x" * 40_000, 0, 9_000, words=tuple(Word("zz", 0, 1) for _ in range(5_000)))],
    ],
    ids=["many segments", "one long", "one with words", "brackets", "no break at all"],
)
def test_time_and_stack_do_not_explode(segments):
    began = time.process_time()
    assert cues(transcript(*segments))
    assert time.process_time() - began < 10  # about half a second; quadratic would be minutes
