import time

import pytest

from tingdao.text.joins import joined
from tingdao.text.rewrite import rewritten
from tingdao.types import Segment

# language, pause in seconds, the two texts as recognised, and as they should be.
CUT = [
    ("en", 0.4, "We walked to the.", "House on the hill.", "We walked to the", "House on the hill."),
    ("en", 0.4, "We walked to the.", "Old house, an old one.", "We walked to the", "old house, an old one."),
    ("en", 1.8, "He opened the door and.", "Then he saw her.", "He opened the door and", "then he saw her."),
    ("en", 0.9, "I stayed at home because.", "It was raining.", "I stayed at home because", "it was raining."),
    ("en", 0.9, "I stayed at home because.", "I was ill.", "I stayed at home because", "I was ill."),
    ("en", 0.3, "It runs on a cluster of.", "Kubernetes nodes.", "It runs on a cluster of", "Kubernetes nodes."),
    ("en", 0.3, "They talked to.", "The NASA people.", "They talked to", "the NASA people."),
    ("en", 0.7, "It took much longer.", "Than we had thought.", "It took much longer", "than we had thought."),
    (
        "en",
        0.7,
        "She ran down the stairs.",
        "and out of the house.",
        "She ran down the stairs",
        "and out of the house.",
    ),
    ("en", 1.2, "So this is the...", "...second part of it.", "So this is the", "second part of it."),
    ("en", 1.2, "He paused for a moment…", "…and went on.", "He paused for a moment", "and went on."),
    ("en", 0.05, "All of us sat in a circle.", "Around the fire.", "All of us sat in a circle", "around the fire."),
    ("en", 0.0, "text without capitals.", "and more of it.", "text without capitals", "and more of it."),
    (
        "fr",
        0.0,
        "Utilisez les commandes.",
        "Pour simuler un appel.",
        "Utilisez les commandes",
        "pour simuler un appel.",
    ),
    (
        "ko",
        0.0,
        "업로드된 오디오를 재생하고 제공된 인식.",
        "결과가 올바른지 결정할 수 있습니다.",
        "업로드된 오디오를 재생하고 제공된 인식",
        "결과가 올바른지 결정할 수 있습니다.",
    ),
    ("en", 0.8, "When we came home,", "The door was open.", "When we came home,", "the door was open."),
    ("en", 0.5, "What they wanted most", "Was peace.", "What they wanted most", "was peace."),
    ("en", 1.5, "And.", "The next day it rained.", "And", "the next day it rained."),
    ("en", 0.5, "My.", "Brother is older, my brother.", "My", "brother is older, my brother."),
    ("de", 0.6, "Das liegt daran, dass.", "Wir zu spät kamen.", "Das liegt daran, dass", "wir zu spät kamen."),
    ("de", 0.6, "Wir fuhren zum.", "Bahnhof in Köln.", "Wir fuhren zum", "Bahnhof in Köln."),
    ("de", 0.3, "Er kam mit der.", "Neuen Kollegin.", "Er kam mit der", "Neuen Kollegin."),
    ("de", 1.2, "Ich wollte kommen, aber.", "Es ging nicht.", "Ich wollte kommen, aber", "es ging nicht."),
    ("fr", 0.5, "Il habite dans le.", "Petit village, très petit.", "Il habite dans le", "petit village, très petit."),
    ("fr", 0.9, "Je suis resté parce que.", "Il pleuvait.", "Je suis resté parce que", "il pleuvait."),
    ("fr", 0.9, "Nous allons à.", "Paris demain.", "Nous allons à", "Paris demain."),
    ("es", 0.7, "Vamos a la casa de.", "Los abuelos.", "Vamos a la casa de", "los abuelos."),
    ("es", 0.7, "No vino porque.", "Estaba en Madrid.", "No vino porque", "Estaba en Madrid."),
    ("it", 0.7, "Siamo andati al.", "Mercato, un mercato grande.", "Siamo andati al", "mercato, un mercato grande."),
    ("pt", 0.7, "Ele saiu do.", "Escritório.", "Ele saiu do", "Escritório."),
    ("ru", 0.6, "Мы поехали в.", "Москву на поезде.", "Мы поехали в", "Москву на поезде."),
    ("ru", 0.6, "Я хотел прийти, но.", "Мне стало плохо.", "Я хотел прийти, но", "мне стало плохо."),
    ("zh", 0.8, "我今天没有去上班，因为。", "我生病了。", "我今天没有去上班，因为", "我生病了。"),
    ("zh", 0.8, "我们要讨论的是成本和。", "质量的问题。", "我们要讨论的是成本和", "质量的问题。"),
    ("zh", 0.6, "虽然他很累。", "但是他没有休息。", "虽然他很累，", "但是他没有休息。"),
    ("zh", 0.6, "因为昨天下了大雨。", "所以比赛取消了。", "因为昨天下了大雨，", "所以比赛取消了。"),
    ("zh", 0.6, "如果明天天气好。", "我们就去爬山。", "如果明天天气好，", "我们就去爬山。"),
    ("zh", 0.6, "我到北京的时候。", "他已经走了。", "我到北京的时候，", "他已经走了。"),
    ("zh", 0.05, "这个项目一共花了三。", "年时间才完成。", "这个项目一共花了三", "年时间才完成。"),
    ("zh", 0.3, "我们讨论一下他们。", "的意见。", "我们讨论一下他们", "的意见。"),
    ("zh", 0.3, "我很喜欢他们的。", "产品和服务。", "我很喜欢他们的", "产品和服务。"),
    ("zh", 0.9, "这种方法比较快，但是…", "成本很高。", "这种方法比较快，但是", "成本很高。"),
    ("zh", 0.4, "我们用的是 Python，而且。", "Java 也在用。", "我们用的是 Python，而且", "Java 也在用。"),
    ("yue", 0.5, "我今日冇返工因為。", "我病咗。", "我今日冇返工因為", "我病咗。"),
    ("ja", 0.4, "昨日は友達と映画を。", "見に行きました。", "昨日は友達と映画を", "見に行きました。"),
    ("ja", 0.4, "私の名前は。", "田中です。", "私の名前は", "田中です。"),
    ("ja", 0.05, "これはとても大。", "切なことです。", "これはとても大", "切なことです。"),
    ("ko", 0.4, "저는 어제 영화를.", "봤습니다.", "저는 어제 영화를", "봤습니다."),
    ("ko", 0.4, "가고 싶어요 하지만.", "시간이 없어요.", "가고 싶어요 하지만", "시간이 없어요."),
]
MISSING = [
    (
        "en",
        1.6,
        "That was the first part",
        "Now comes the second.",
        "That was the first part.",
        "Now comes the second.",
    ),
    (
        "de",
        2.4,
        "Das war der erste Teil",
        "Jetzt kommt der zweite.",
        "Das war der erste Teil.",
        "Jetzt kommt der zweite.",
    ),
    ("nl", 1.6, "Dat was het eerste deel", "Nu het tweede.", "Dat was het eerste deel.", "Nu het tweede."),
    ("zh", 1.6, "这是第一部分的内容", "下面是第二部分。", "这是第一部分的内容。", "下面是第二部分。"),
    ("ja", 1.6, "これで終わりです", "ありがとうございます。", "これで終わりです。", "ありがとうございます。"),
    ("ko", 1.6, "오늘은 여기까지 하겠습니다", "감사합니다.", "오늘은 여기까지 하겠습니다.", "감사합니다."),
]
UNTOUCHED = [
    ("en", 0.8, "I went to the shop.", "The shop was closed."),
    ("en", 0.3, "He left early.", "She stayed."),
    ("en", 0.3, "He left early.", "And she stayed."),
    ("en", 0.05, "The brown fox.", "Jumps over the lazy dog."),
    ("en", 0.0, "They were at first discounted.", "There was a description."),
    ("en", 0.0, "Walk around with this dude.", "If you stay up here, you take orders."),
    ("en", 0.0, "The report was long.", "The next one was short."),
    ("es", 0.0, "Marque en su teléfono.", "Si está usando el canal de consola, no."),
    ("en", 3.0, "We walked to the.", "The house was empty."),
    ("en", 0.8, "There is nothing to be afraid of.", "We will be fine."),
    ("en", 0.5, "Of.", "Of course we will."),
    ("en", 0.7, "I will come tomorrow.", "Of course I will."),
    ("en", 0.4, "What are you looking at?", "The sky."),
    ("en", 0.4, "Look at the!", "The car!"),
    ("en", 0.3, "This was written by Dr.", "Smith and others."),
    ("en", 0.3, "There are cats, dogs, etc.", "and some birds."),
    ("en", 0.3, "She lives in the U.S.", "and likes it."),
    ("en", 0.4, "Take some vitamin A.", "It helps."),
    ("en", 0.2, "He said, “Leave the.”", "Then he left."),
    ("en", 0.3, "the price went up.", "then it went down."),
    ("en", 1.5, "Yes", "The next one."),
    ("en", 0.6, "However,", "London is nice."),
    ("en", 0.6, "However,", "I like it."),
    ("en", 0.6, "However,", "NASA did it."),
    ("en", 0.5, "That is what they call", "Kubernetes."),
    ("en", 0.5, "It costs 3.", "5 of them are left."),
    ("en", 0.5, "We met in", "May."),
    ("de", 0.5, "Ich weiß das.", "Der Mann kommt morgen."),
    ("de", 0.5, "Das Essen war gut,", "Essen ist eine Stadt."),
    ("de", 0.6, "Wir gehen jetzt.", "Und du?"),
    ("de", 0.7, "Ich mag die.", "Der Rest ist egal."),
    ("fr", 0.6, "Je ne sais pas.", "Il est parti."),
    ("fr", 0.6, "Donne-le.", "Il est à moi."),
    ("es", 0.6, "No lo sé.", "Es tarde."),
    ("es", 0.4, "¿Por qué?", "Porque sí."),
    ("it", 0.7, "Non so perché.", "Domani partiamo."),
    ("ru", 0.7, "Я люблю её.", "Она красивая."),
    ("ru", 0.3, "Он ушёл.", "Мы остались."),
    ("tr", 0.5, "Bu çok güzel.", "Onu seviyorum."),
    ("zh", 0.6, "是的。", "我们明天去。"),
    ("zh", 0.4, "这是我们的。", "你们的在那边。"),
    ("zh", 0.6, "我们明天去北京。", "他们后天去上海。"),
    ("zh", 0.6, "这样可以保证运动员的参与。", "下面我们看第二点。"),
    ("zh", 0.6, "这件事需要双方缓和。", "我们再谈。"),
    ("zh", 0.3, "你要听我说的话。", "他不听。"),
    ("zh", 0.6, "你吃饭了吗？", "因为我还没吃。"),
    ("zh", 0.6, "我们坐的士去。", "的士很贵。"),
    ("zh", 0.6, "那是我上大学的时候。", "现在我工作了。"),
    ("zh", 0.6, "他说得对。", "所以我们同意了。"),
    ("zh", 1.5, "好的", "我们开始吧。"),
    ("zh", 0.5, "我们先看第一点", "第二点以后再说。"),
    ("ja", 0.6, "こんにちは。", "田中と申します。"),
    ("ja", 0.6, "そうですね。", "行きましょう。"),
    ("ja", 0.6, "ちょっと待って。", "今行きます。"),
    ("ja", 0.6, "いいえ、別に。", "何でもありません。"),
    ("ko", 0.6, "안녕하세요.", "저는 김철수입니다."),
    ("th", 0.6, "สวัสดีครับ", "ผมชื่อสมชาย"),
    ("ar", 0.6, "مرحبا.", "كيف حالك؟"),
    ("en", 0.5, "", "The first clip was silent."),
    ("en", 0.5, "The last clip was silent.", ""),
    ("en", 0.5, "...", "And then?"),
    (None, 0.4, "We walked to the.", "House on the hill."),
]
"""What must stay as it is: real ends, names, abbreviations, and what nobody can tell."""


def join(before, after, language, pause, mark=None):
    edits = joined(before, after, language, pause, mark)
    return tuple(rewritten(Segment(text, 0, 1), edit).text for text, edit in zip((before, after), edits, strict=True))


@pytest.mark.parametrize(("language", "pause", "before", "after", "then", "there"), CUT)
def test_a_cut_sentence_is_one_again(language, pause, before, after, then, there):
    assert join(before, after, language, pause) == (then, there)


@pytest.mark.parametrize(("language", "pause", "before", "after", "then", "there"), MISSING)
def test_a_missing_full_stop_is_added(language, pause, before, after, then, there):
    assert join(before, after, language, pause) == (then, there)


@pytest.mark.parametrize(("language", "pause", "before", "after"), UNTOUCHED)
def test_a_real_border_stays(language, pause, before, after):
    assert joined(before, after, language, pause) == ([], [])


def test_half_of_the_cases_must_stay():
    assert len(UNTOUCHED) >= 50
    assert len(CUT) + len(MISSING) >= 50


def test_what_is_joined_stays_joined():
    for language, _, before, after, *_ in (*CUT, *MISSING, *UNTOUCHED):
        for pause in (0.0, 0.05, 0.2, 0.4, 0.6, 0.9, 1.2, 1.9, 2.5, 60.0):
            once = join(before, after, language, pause)
            assert joined(*once, language, pause) == ([], []), (before, after, pause, once)


def test_words_are_neither_lost_nor_added():
    for language, _, before, after, *_ in (*CUT, *MISSING, *UNTOUCHED):
        for pause in (0.0, 0.3, 0.6, 1.5, 3.0):
            for old, new in zip((before, after), join(before, after, language, pause), strict=True):
                letters = [[c for c in text.lower() if c.isalnum()] for text in (old, new)]
                assert letters[0] == letters[1]


def test_a_punctuation_model_decides_on_full_stops_and_commas_only():
    before, after = "我们明天去北京。", "上海以后再去。"
    assert join(before, after, "zh", 0.6, "，") == ("我们明天去北京，", after)
    assert join(before, after, "zh", 0.6, "") == ("我们明天去北京", after)
    assert join(before, after, "zh", 0.6, "。") == (before, after)
    assert join("我们明天去北京", after, "zh", 0.1, "。") == (before, after)
    assert join("你去北京吗？", after, "zh", 0.6, "，") == ("你去北京吗？", after)


def test_a_border_costs_little():
    began = time.perf_counter()
    for _ in range(10):
        for language, pause, before, after, *_ in (*CUT, *UNTOUCHED):
            joined(before, after, language, pause)
    each = (time.perf_counter() - began) / 10 / (len(CUT) + len(UNTOUCHED))
    assert each < 1e-3  # some 20 µs; the machine may be busy
