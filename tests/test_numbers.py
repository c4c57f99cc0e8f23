import sys
import threading
import time

import pytest

from tingdao.errors import UnsupportedOption
from tingdao.text.numbers import Numbers

WRITTEN = {
    "zh": {
        "今天是二零二四年三月五号。": "今天是2024年3月5号。",
        "二〇二四年五月二十日下午三点半开会。": "2024年5月20日下午3点半开会。",
        "早上八点十五分出发，晚上九点到家。": "早上8点15分出发，晚上9点到家。",
        "下午三点零五分": "下午3点05分",
        "一九四九年十月一日": "1949年10月1日",
        "两千零二十四年三月五号": "2024年3月5号",
        "大约百分之八十五点五的人": "大约85.5%的人",
        "有三分之二的票": "有2/3的票",
        "一共一百二十三万五千元": "一共123万5000元",
        "两亿三千万人口": "2亿3000万人口",
        "三十五万用户": "35万用户",
        "电话是一三八零零一三八零零零": "电话是13800138000",
        "请打幺幺零": "请打110",
        "圆周率是三点一四一五九": "圆周率是3.14159",
        "大概十一点五万": "大概11.5万",
        "第二十三届，第一百二十三条": "第23届，第123条",
        "二十世纪九十年代": "20世纪90年代",
        "零下十五度": "零下15度",
        "身高一百八十厘米": "身高180厘米",
        "卖九十九块九": "卖99块9",
        "地址是幺九二点幺六八点零点幺": "地址是192.168.0.1",
        'use the API 接口 二十 次，he said "二十五"。': 'use the API 接口 20 次，he said "25"。',
        "兩萬五千人和三百二十萬元": "25000人和320萬元",
    },
    "yue": {"晚上八點半，一共三百二十蚊": "晚上8點半，一共320蚊"},
    "en": {
        "I have twenty-three apples.": "I have 23 apples.",
        "It was nineteen eighty four.": "It was 1984.",
        "in nineteen oh five and eighteen thirteen": "in 1905 and 1813",
        "between one hundred and two hundred": "between 100 and 200",
        "the nineteen nineties": "the 1990s",
        "Meet me at three thirty p.m. on March fifth, twenty twenty four.": "Meet me at 3:30 p.m. on March 5th, 2024.",
        "at one thirty pm.": "at 1:30 pm.",
        "The twenty first century": "The 21st century",
        "one hundred and five dollars": "$105",
        "ten million dollars, ten euros": "$10 million, €10",
        "twenty five percent of it": "25% of it",
        "five five five one two three four": "5551234",
        "three point one four": "3.14",
        'He said: "twenty dollars"  and left': 'He said: "$20"  and left',
        "two thousand and ten; twelve hundred": "2010; 1200",
    },
}
SPOKEN_ZH = """
一会儿我们再说。 三心二意的人。 十分感谢大家。 我等了十分钟。 我有两个苹果 一个人去的 我们一起去吧 万一下雨怎么办
千万不要这样 五花八门 乱七八糟 一五一十地说 九牛一毛 百里挑一 十全十美 一千零一夜 三十六计走为上计 一点也不好
差一点就到了 一点儿 一点一点地 早上一点都不冷 一下子 八卦 五四运动 九一八事变 三八妇女节 双十一 二维码 四川省
张三李四 老三 周一到周五 星期天 三五个人 七八十个 十几个 一两天 两三百人 几十万人 几百万 二百五 二十几岁 十五六岁
成千上万 十万火急 三三两两 不管三七二十一 百事可乐 三星手机 三国演义 四大天王 五一劳动节 独一无二 接二连三 半斤八两
十之八九 万分感谢 千言万语 五十步笑百步 二十四节气 七七四十九 九九乘法表 四五十岁 一米八 八折 六月初八 八月十五
正月十五 一心一意 一二三 一二年级 三比二 二〇后 八零后 四舍五入 一见钟情 有一点半信半疑 国庆七天 北京时间
今天天气很好
"""
SPOKEN_EN = """
One of us.
ten of clubs
go forward ten meters
nine
twelve people
The Seven Samurai
Twenty people came.
TWENTY FIVE
He is second to none.
at second thought
a twenty second delay
I'm third.
nine eleven
seven eleven
fifty fifty
twenty four seven
one two three
a hundred dollars
a hundred and twenty
three and four
hundreds of thousands
two thirds
forty-niners
a twenty-year-old
Saint Paul, saint
half past five
three o'clock
May I?
World War Two
one and a half
One two three four five.
no numbers  here
version two point oh
"""
SPOKEN = {
    "zh": [*SPOKEN_ZH.split(), "I have two apples"],
    "en": SPOKEN_EN.strip().splitlines(),
    "de": ["einundzwanzig Leute, twenty"],
    "ja": ["二十三人です"],
}


@pytest.fixture(scope="module")
def numbers():
    return Numbers()


@pytest.mark.parametrize(
    ("language", "spoken", "written"),
    [(language, *pair) for language, pairs in WRITTEN.items() for pair in pairs.items()],
)
def test_numbers_are_written_in_figures(numbers, language, spoken, written):
    assert numbers.written(spoken, language) == written
    assert numbers.written(written, language) == written


@pytest.mark.parametrize(("language", "text"), [(lang, text) for lang, texts in SPOKEN.items() for text in texts])
def test_what_is_no_certain_number_stays(numbers, language, text):
    assert numbers.written(text, language) == text


def test_only_its_languages_are_touched(numbers):
    assert numbers.written("二十三 twenty three", None) == "二十三 twenty three"
    assert numbers.written("二十三 twenty three", "zh") == "23 twenty three"
    assert numbers.written("二十三 twenty three", "en") == "二十三 23"


def test_spaces_and_what_stands_around_survive(numbers):
    for text in ("  二十  \n\t三十\u3000", "\\ { } \" ' “二十” 【三十】 \U0001f600 二十 é"):
        assert numbers.written(text, "zh") == text.replace("二十", "20").replace("三十", "30")
    text = '  twenty  \n\t{thirty} \\ " [thirty] \U0001f600 é'
    assert numbers.written(text, "en") == text.replace("twenty", "20").replace("thirty", "30")


def test_impossible_dates_and_times_stay(numbers):
    for text in ("十三月五号", "三月三十二号", "二十五点十五分", "三点七十五分"):
        assert numbers.written(text, "zh") == text


def test_threads_share_it(numbers):
    texts, found = list(WRITTEN["zh"]), {}

    def work(number):
        found[number] = [numbers.written(text, "zh") for text in texts for _ in range(3)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[n] == [WRITTEN["zh"][text] for text in texts for _ in range(3)] for n in range(4))


def test_text_without_numbers_costs_next_to_nothing(numbers):
    text = "我们今天来讨论这个项目的进展情况，大家有什么问题都可以提出来。" * 40
    began = time.perf_counter()
    for _ in range(10):
        numbers.written(text[:1000], "zh")
    assert (time.perf_counter() - began) / 10 < 0.03  # 0.4 ms; the machine may be busy


def test_without_wetext_the_option_is_refused_with_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "wetext", None)
    with pytest.raises(UnsupportedOption, match=r"pip install 'tingdao\[text\]'") as refused:
        Numbers()
    assert refused.value.param == "numbers"
