"""Spoken numbers in figures (inverse text normalisation), Chinese and English, by wetext (the extra `text`).

    二零二四年三月五号早上八点半，一百二十三人  →  2024年3月5号早上8点半，123人
    百分之八十五点五 · 三分之二 · 电话一三八零零一三八零零零  →  85.5% · 2/3 · 电话13800138000
    nineteen eighty four · one hundred and five dollars · March fifth  →  1984 · $105 · March 5th

wetext alone would rewrite whole texts: it eats spaces, fails on quotation marks, makes 10分 of 十分感谢, `st.` of saint
and 2024/05/203:30p.m. of a date and time, and takes 300 ms per 1,000 characters. So this module finds the phrases
that are certainly numbers, wetext writes those alone, and its answer counts only where it has the form of a number.

What stays as it is spoken: numbers of one character or below 13 (三个, 十分, one, ten) but in dates and times, vague
ones (三五个, 十几, 两三百), fixed expressions (三十六计, 一千零一夜), units, the words of dates and times, and English
number words with capitals.

Cost: 0.5 ms per 1,000 characters and 1 to 2 ms per number; wetext loads in 0.4 s at the first use.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tingdao.errors import UnsupportedOption

if TYPE_CHECKING:
    from wetext import Normalizer

# Chinese. Traditional numerals are handed over as simplified ones, and 萬 and 億 come back as they were.
_SIMPLIFIED = str.maketrans("兩萬億點", "两万亿点")
_DIGITS = str.maketrans("零〇幺一二三四五六七八九两兩", "00112345678922")
_D, _N = "[零〇幺一二三四五六七八九]", "[零〇幺一二两兩三四五六七八九十百千万萬亿億]"
_ANY = _N[1:-1]
_DAYTIME = "(?:早上|上午|中午|下午|晚上|傍晚|凌晨|夜里|夜裡|今晚|明晚|今早|明早)"
_KINDS_ZH = {
    # Never written in figures: fixed expressions, days of the lunar calendar.
    "fixed": rf"""一千零一夜|三十六[计計]|七七四十九|五十步|二百五(?!十)|[双雙]十[一二]|十八般|二十四(?:[节節][气氣]|孝)
        |十八罗汉|十二生肖|一百零八将|十三(?:陵|香|太保)|二十八宿|八十一[难難]|七十二[变變]|十一(?:黄金周|假期|[长長]假)
        |三十而立|四十不惑|五十(?:而)?知天命|六十四卦|三百六十行|五百罗汉|一百[个個]不
        |(?:{_N}{{1,2}}|[正腊臘])月{_N}{{1,3}}(?![日号號{_ANY}])|初{_N}+""",
    "percent": rf"百分之{_N}+(?:[点點]{_D}+)?",
    "fraction": rf"(?<!{_N})(?![十百千万萬亿億]分之){_N}+分之{_N}+",
    "date": rf"""(?<!{_N})(?:(?:[一二]{_D}{{3}}|[零〇]{_D})年(?:{_N}{{1,2}}月(?:{_N}{{1,3}}[日号號])?)?
        |{_N}{{1,2}}月{_N}{{1,3}}[日号號])""",
    "time": rf"""(?<!{_N})(?:{_DAYTIME}(?!一[点點]){_N}{{1,3}}[点點](?![点點半钟鐘零{_ANY}])
        |{_N}{{1,3}}[点點](?:{_N}{{1,3}}分(?!之)(?:{_N}{{1,3}}秒)?|{_D}?十{_D}?(?!{_N})|零{_D}(?!{_N})
        |半(?![个個天年夜路信途身数數价價])|整(?![个個理合体體])|[钟鐘](?!情)|[一三]刻))""",
    "price": rf"(?<!{_N}){_N}{{2,}}[块塊]{_D}(?!{_N})",
    "decimal": rf"(?<!{_N})(?<!\d){_N}+[点點]{_D}+(?:[点點]{_D}+)*(?![十百千点點滴线線])",
    "digits": rf"(?<!{_N}){_D}{{3,}}(?!{_N})",
    "cardinal": rf"(?<![几幾数數\d{_ANY}]){_N}{{2,}}(?![几幾{_ANY}])",
}
_ZH = re.compile("|".join(f"(?P<{kind}>{form})" for kind, form in _KINDS_ZH.items()), re.VERBOSE)
_KEPT_WORDS = frozenset({"date", "time", "price"})
_UP_TO_9999 = (
    r"零?(?:[一二两三四五六七八九]千)?(?:零?[一二两三四五六七八九]百)?"
    r"(?:零?[一二三四五六七八九]?十)?(?:零?[一二三四五六七八九])?"
)
_CARDINAL = re.compile(
    rf"(?=[一二两三四五六七八九十])(?:(?:{_UP_TO_9999}|两)亿)?(?:(?:{_UP_TO_9999}|两)万)?{_UP_TO_9999}"
)
_WRITTEN_ZH = {
    "percent": re.compile(r"\d+(?:\.\d+)?%"),
    "fraction": re.compile(r"\d+/\d+"),
    "decimal": re.compile(r"\d+(?:\.\d+)+"),
    "cardinal": re.compile(r"\d+(?:[万亿]\d*)*"),
}

# English.
_UNITS = "one|two|three|four|five|six|seven|eight|nine"
_TEENS = "ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_DECADES = "twenties|thirties|forties|fifties|sixties|seventies|eighties|nineties"
_LARGE = "thousand|million|billion|trillion"
_FIRSTS = "first|second|third|fourth|fifth|sixth|seventh|eighth|ninth"
_ORDINALS = (
    f"{_FIRSTS}|tenth|eleventh|twelfth|thirteenth|fourteenth|fifteenth|sixteenth|seventeenth|eighteenth|nineteenth"
    "|twentieth|thirtieth|fortieth|fiftieth|sixtieth|seventieth|eightieth|ninetieth|hundredth|thousandth"
)
_NUMERAL = f"(?:{_UNITS}|{_TEENS}|{_TENS}|{_DECADES}|{_LARGE}|{_ORDINALS}|hundred|point|oh|zero)"
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_EN = re.compile(
    rf"(?P<month>\b(?:{_MONTHS}) (?:the )?)?"
    rf"(?<![\w-])(?P<run>(?i:{_NUMERAL}(?:(?:[ -]| and ){_NUMERAL})*))\b(?![-'’]\w)"
    r"(?P<unit> percent\b| dollars?\b| euros?\b| ?[ap]\.m\.| [ap]m\b)?"
)
_BELOW_100 = f"(?:(?:{_TENS})(?: (?:{_UNITS}))?|{_TEENS}|{_UNITS})"
_BELOW_10000 = f"(?:{_BELOW_100} hundred(?:(?: and)? {_BELOW_100})?|{_BELOW_100})"
_WHOLE = f"{_BELOW_10000}(?: (?:{_LARGE})(?:(?: and)? {_BELOW_10000})?)*"
_FORMS_EN = {
    "year": re.compile(
        rf"(?:sixteen|seventeen|eighteen|nineteen|twenty) "
        rf"(?:oh (?:{_UNITS})|{_TEENS}|(?:{_TENS})(?: (?:{_UNITS}))?|{_DECADES})"
    ),
    "ordinal": re.compile(rf"(?:{_WHOLE} )?(?:{_ORDINALS})"),
    "decimal": re.compile(rf"(?:{_WHOLE}|zero) point (?:zero|oh|{_UNITS})(?: (?:zero|oh|{_UNITS}))*"),
    "cardinal": re.compile(_WHOLE),
}
_TIME_EN = re.compile(
    rf"(?:{_UNITS}|ten|eleven|twelve)(?: (?:oh (?:{_UNITS})|{_TEENS}|(?:{_TENS})(?: (?:{_UNITS}))?))?"
)
_SPELT = re.compile(rf"(?:zero|oh|{_UNITS})(?: (?:zero|oh|{_UNITS})){{3,}}")
_FIGURES = {word: str(number) for number, word in enumerate(_UNITS.split("|"), 1)} | {"zero": "0", "oh": "0"}
_WRITTEN_EN = {
    "year": re.compile(r"\d{4}s?"),
    "ordinal": re.compile(r"[\d,]*\d(?:st|nd|rd|th)"),
    "decimal": re.compile(r"\d+\.\d+"),
    "cardinal": re.compile(rf"\d[\d,]*(?: (?:{_LARGE}))?"),
    "money": re.compile(rf"[$€]\d[\d,.]*(?: (?:{_LARGE}))?"),
    "time": re.compile(r"\d\d:\d\d [ap]\.m\."),
}

LONGEST_RUN = 150
"""Characters of English number words in a row from which on it is no number; the longest that people say has 100."""


class Numbers:
    """Writes spoken numbers in figures. Thread-safe.

    Raises UnsupportedOption when wetext is not installed.
    """

    languages = frozenset({"zh", "yue", "en"})

    def __init__(self) -> None:
        try:
            from wetext import Normalizer  # the extra is optional, and takes a third of a second to load
        except ImportError:
            raise UnsupportedOption(
                "This service cannot write spoken numbers in figures: wetext is not installed. "
                "Its operator types: pip install 'tingdao[text]'",
                param="numbers",
            ) from None
        self._chinese: Normalizer = Normalizer(lang="zh", operator="itn")
        self._english: Normalizer = Normalizer(lang="en", operator="itn")

    def written(self, text: str, language: str | None) -> str:
        """The text with its numbers in figures; in another language than Chinese or English, as it is."""
        if language in {"zh", "yue"}:
            return _ZH.sub(self._in_chinese, text)
        if language == "en":
            return _EN.sub(self._in_english, text)
        return text

    def _in_chinese(self, found: re.Match[str]) -> str:
        spoken, kind = found.group(), found.lastgroup
        if kind == "fixed" or kind is None:
            return spoken
        if kind == "digits":
            known = len(spoken) >= 5 or re.search("[零〇幺]", spoken)
            return spoken.translate(_DIGITS) if known else spoken
        if kind in _KEPT_WORDS:
            # wetext would write 2024/03/05 and 8:15a.m.; here the words between the figures stay.
            written = re.sub(rf"{_N}+(?!刻)", lambda number: self._small(number.group()), spoken)
            return written if _is_possible(written, kind) else spoken
        simple = spoken.translate(_SIMPLIFIED)
        unit = ""
        if kind == "cardinal":
            if not _CARDINAL.fullmatch(simple):
                return spoken
            if re.fullmatch(r"[^万亿]+[万亿]", simple):  # 三十五万 is 35万, not 350000
                simple, unit = simple[:-1], spoken[-1]
                if len(simple) == 1:
                    return spoken
        written = str(self._chinese.normalize(simple))
        if not _WRITTEN_ZH[kind].fullmatch(written):
            return spoken
        if "萬" in spoken or "億" in spoken:
            written = written.replace("万", "萬").replace("亿", "億")
        return written + unit

    def _small(self, number: str) -> str:
        figures = number.translate(_DIGITS)
        return figures if figures.isdigit() else str(self._chinese.normalize(number.translate(_SIMPLIFIED)))

    def _in_english(self, found: re.Match[str]) -> str:
        run, month, unit = found["run"], found["month"] or "", found["unit"] or ""
        certain = run.islower() and len(run) < LONGEST_RUN
        written = self._figures(run.replace("-", " "), month, unit) if certain else None
        return found.group() if written is None else month + written

    def _figures(self, run: str, month: str, unit: str) -> str | None:
        """A run of number words with its unit in figures, or None where it is to stay."""
        if unit == " percent":
            number = self._plain(run)
            return number and f"{number}%"
        if re.match(" ?[ap]", unit):
            clock = self._accepted(f"{run} {unit.strip()[0]}.m.", "time") if _TIME_EN.fullmatch(run) else ""
            return clock.split()[0].lstrip("0") + unit if clock else None
        if unit and _FORMS_EN["cardinal"].fullmatch(run):
            return self._accepted(run + unit, "money") or None
        written = self._plain(run, month)
        if written is None and " and " in run and not unit:
            parts = [self._plain(part) for part in run.split(" and ")]
            written = None if None in parts else " and ".join(filter(None, parts))
        return written and written + unit

    def _plain(self, run: str, month: str = "") -> str | None:
        if _SPELT.fullmatch(run):
            return "".join(_FIGURES[word] for word in run.split())
        kind = next((kind for kind, form in _FORMS_EN.items() if form.fullmatch(run)), None)
        if kind is None:
            return None
        # First to twelfth stay words, and "twenty second" may be a length.
        if kind == "ordinal" and not month:
            counts = run.endswith("teenth") or (" " in run and not run.endswith("second"))
            return (self._accepted(run, kind) or None) if counts else None
        return self._accepted(run, kind) or None

    def _accepted(self, phrase: str, kind: str) -> str:
        """What wetext writes for a phrase, or "" where that has not the form of its kind."""
        written = str(self._english.normalize(phrase))
        return written if _WRITTEN_EN[kind].fullmatch(written) else ""


def _is_possible(written: str, kind: str) -> bool:
    """Whether a date or time in figures is one."""
    limits = {"月": (1, 12), "日": (1, 31), "号": (1, 31), "號": (1, 31)}
    if kind == "time":
        limits = {"点": (0, 24), "點": (0, 24), "分": (0, 59), "秒": (0, 59)}
    return all(
        figures.isdigit() and (limit := limits.get(unit, (0, 9999))) and limit[0] <= int(figures) <= limit[1]
        for figures, unit in re.findall(rf"([\d{_ANY}]+)([年月日号號点點分秒])", written)
    )
