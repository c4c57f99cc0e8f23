"""Languages by ISO 639 code, and how people write them in requests."""

from __future__ import annotations

from tingdao.errors import UnknownLanguage

NAMES: dict[str, str] = {
    "ar": "Arabic",
    "yue": "Cantonese",
    "zh": "Chinese",
    "cs": "Czech",
    "da": "Danish",
    "nl": "Dutch",
    "en": "English",
    "fil": "Filipino",
    "fi": "Finnish",
    "fr": "French",
    "de": "German",
    "el": "Greek",
    "hi": "Hindi",
    "hu": "Hungarian",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "mk": "Macedonian",
    "ms": "Malay",
    "fa": "Persian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "es": "Spanish",
    "sv": "Swedish",
    "th": "Thai",
    "tr": "Turkish",
    "vi": "Vietnamese",
}
"""The languages of Qwen3-ASR by the names that it writes (source: transformers' `qwen3_asr` processor)."""

OTHER_NAMES: dict[str, str] = {
    "af": "Afrikaans", "am": "Amharic", "as": "Assamese", "az": "Azerbaijani", "ba": "Bashkir", "be": "Belarusian",
    "bg": "Bulgarian", "bn": "Bengali", "bo": "Tibetan", "br": "Breton", "bs": "Bosnian", "ca": "Catalan",
    "cy": "Welsh", "et": "Estonian", "eu": "Basque", "fo": "Faroese", "gl": "Galician", "gu": "Gujarati",
    "ha": "Hausa", "haw": "Hawaiian", "he": "Hebrew", "hr": "Croatian", "ht": "Haitian", "hy": "Armenian",
    "is": "Icelandic", "jv": "Javanese", "ka": "Georgian", "kk": "Kazakh", "km": "Khmer", "kn": "Kannada",
    "la": "Latin", "lb": "Luxembourgish", "ln": "Lingala", "lo": "Lao", "lt": "Lithuanian", "lv": "Latvian",
    "mg": "Malagasy", "mi": "Maori", "ml": "Malayalam", "mn": "Mongolian", "mr": "Marathi", "mt": "Maltese",
    "my": "Burmese", "ne": "Nepali", "nn": "Nynorsk", "no": "Norwegian", "oc": "Occitan", "pa": "Punjabi",
    "ps": "Pashto", "sa": "Sanskrit", "sd": "Sindhi", "si": "Sinhala", "sk": "Slovak", "sl": "Slovenian",
    "sn": "Shona", "so": "Somali", "sq": "Albanian", "sr": "Serbian", "su": "Sundanese", "sw": "Swahili",
    "ta": "Tamil", "te": "Telugu", "tg": "Tajik", "tk": "Turkmen", "tl": "Tagalog", "tt": "Tatar",
    "uk": "Ukrainian", "ur": "Urdu", "uz": "Uzbek", "yi": "Yiddish", "yo": "Yoruba",
}  # fmt: skip
"""Names of the further languages that the embedded model knows."""

UNSPACED = frozenset({"zh", "yue", "ja", "th", "my", "lo", "km"})
"""Languages written without spaces between words or sentences."""

_BY_NAME = {name.lower(): code for code, name in (NAMES | OTHER_NAMES).items()}
# Region tags that mean another language than their first part says, and codes that have a shorter twin.
_SPECIAL: dict[str, str | None] = {"zh-hk": "yue", "zh-yue": "yue", "cmn": "zh", "auto": None, "": None}


def name_of(code: str) -> str:
    """A language's English name as Qwen3-ASR writes it (`English`); the code where there is none."""
    return NAMES.get(code) or OTHER_NAMES.get(code, code)


def code_of(text: str | None) -> str | None:
    """ISO code of a language as a client writes it: `zh`, `zh-CN`, `Chinese`; `auto`, empty or None is None."""
    if text is None:
        return None
    wanted = text.strip().lower().replace("_", "-")
    return _SPECIAL.get(wanted, _BY_NAME.get(wanted) or wanted.split("-")[0])


def parse(text: str | None, known: frozenset[str], param: str = "language") -> str | None:
    """The same for a language that a model must recognise.

    known: the codes of those. param: the field that the text came in. Raises UnknownLanguage.
    """
    code = code_of(text)
    if text is not None and code is not None and code not in known:
        raise UnknownLanguage(
            f"Language {text[:40]!r} is not one this model recognises. Leave it out to have it detected, "
            f"or use one of: {', '.join(sorted(known))}.",
            param=param,
        )
    return code
