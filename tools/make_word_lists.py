"""Make the lists of common words that ship with the package.

    python tools/make_word_lists.py JIEBA_DICT SYMSPELL_DICT

JIEBA_DICT: `jieba/dict.txt` of jieba 0.42.1 (MIT): word, count, kind of word.
SYMSPELL_DICT: `symspellpy/frequency_dictionary_en_82_765.txt` of symspellpy 6.10.1 (MIT): word, count; made of
SCOWL and the Google Books Ngrams.
Written are only the words, the most frequent first; `text/words.py` says how they are read.
"""

from __future__ import annotations

import lzma
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "src/tingdao/text"
HAN = re.compile(r"[\u4e00-\u9fff]{1,4}")
CHINESE_SEEN, CHARACTER_SEEN = 20, 100
"""How often a Chinese word, and a word of one character, must have been counted."""
PLACE, PLACE_MARK = "ns", "@"


def chinese(source: Path) -> list[str]:
    """Words of one to four characters, place names marked."""
    counted = []
    for line in source.read_text(encoding="utf-8").splitlines():
        word, count, kind = line.split()
        if HAN.fullmatch(word) and int(count) >= (CHARACTER_SEEN if len(word) == 1 else CHINESE_SEEN):
            counted.append((-int(count), word + (PLACE_MARK if kind == PLACE else "")))
    return [word for _, word in sorted(counted)]


def english(source: Path) -> list[str]:
    """Words in lower-case letters."""
    counted = [line.split() for line in source.read_text(encoding="utf-8-sig").splitlines()]
    return [word for word, _ in sorted(counted, key=lambda pair: -int(pair[1])) if word.isalpha() and word.isascii()]


def main() -> None:
    """Write both lists."""
    for name, words in (("zh", chinese(Path(sys.argv[1]))), ("en", english(Path(sys.argv[2])))):
        packed = lzma.compress("\n".join(words).encode(), preset=9 | lzma.PRESET_EXTREME)
        (FOLDER / f"words.{name}.xz").write_bytes(packed)
        print(f"{name}: {len(words)} words, {len(packed)} bytes")


if __name__ == "__main__":
    main()
