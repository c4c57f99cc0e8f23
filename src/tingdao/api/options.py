"""What a caller may ask of a transcription, by the same names in every form, and what came of the expected words."""

from __future__ import annotations

from pydantic import BaseModel, Field

from tingdao.api.forms import Fields
from tingdao.text import terms
from tingdao.types import Options, Script, Transcript


class OptionFields(Fields):
    """The fields that all forms share."""

    language: str | None = Field(
        None, description="ISO code of the language spoken (`zh`, `en`, `yue`); left out or `auto`: detected."
    )
    languages: list[str] = Field(
        default_factory=list,
        alias="languages[]",
        description="ISO codes of the only languages that may be detected, the likeliest first.",
    )
    prompt: str = Field("", max_length=10_000, description="Text that helps the model: names, terms, topic.")
    keywords: list[str] = Field(
        default_factory=list, alias="keywords[]", description="Words and phrases that are expected."
    )
    hotwords: str | None = Field(
        None,
        description="Words that are expected, separated by commas or line breaks, each with a weight behind it if you "
        'like; or JSON: `[{"word": "不二家", "sounds_like": ["bu er jia"]}]`.',
    )
    vocabularies: list[str] = Field(
        default_factory=list,
        alias="vocabularies[]",
        description="Names of word lists that the operator keeps; their words are expected too.",
    )
    numbers: bool | None = Field(
        None, description="Write spoken numbers, dates and the like in figures; left out: as the operator set it."
    )
    script: Script | None = Field(
        None, description="Characters for Chinese: `simplified` or `traditional`; left out: as the operator set it."
    )


def options_of(fields: OptionFields, *, words: bool = False, subtitles: bool = False) -> Options:
    """The fields as the pipeline takes them. Raises BadRequest for terms that cannot be read."""
    context, prompted = terms.context_or_terms(fields.prompt)
    return Options(
        language=fields.language,
        languages=tuple(fields.languages),
        context=context,
        words=words,
        subtitles=subtitles,
        terms=terms.merged(
            terms.from_keywords(fields.keywords, "keywords[]"), terms.from_hotwords(fields.hotwords or ""), prompted
        ),
        vocabularies=tuple(fields.vocabularies),
        numbers=fields.numbers,
        script=fields.script,
    )


class ShownCorrection(BaseModel):
    """An expected word that was written in place of what the model heard."""

    heard: str = Field(description="What the model wrote.", examples=["中间协会"])
    written: str = Field(description="The expected word.", examples=["中介协会"])
    exact: bool = Field(description="Whether both sound the same; else they are only near.")
    segment: int = Field(description="Number of the segment it is in, from 0.")
    at: int = Field(description="Where it begins in that segment's text, in characters.")


class ShownVocabulary(BaseModel):
    """What became of the expected words."""

    hinted: list[str] = Field(description="The words that the model was told of; only some fit.")
    corrections: list[ShownCorrection]


def vocabulary_of(transcript: Transcript) -> ShownVocabulary | None:
    """What became of the expected words; None when there were none."""
    if transcript.hinted is None:
        return None
    return ShownVocabulary(
        hinted=list(transcript.hinted),
        corrections=[
            ShownCorrection(heard=made.heard, written=made.written, exact=made.exact, segment=number, at=made.at)
            for number, segment in enumerate(transcript.segments)
            for made in segment.corrections
        ],
    )
