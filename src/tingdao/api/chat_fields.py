"""What a chat request may hold: OpenAI's fields, those of qwen-asr-serve (vLLM), and DashScope's `asr_options`.

Sources: OpenAI's API reference; vLLM's `ChatCompletionRequest`; DashScope's reference of Qwen-ASR. A field is here when
it is honoured, or when leaving it aside does not change the answer. Everything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from tingdao.api.inline import AudioData, AudioUrl
from tingdao.api.payload import Payload
from tingdao.text.terms import LONGEST_SOUND, LONGEST_WORD, MOST_SOUNDS, MOST_TERMS
from tingdao.types import Script, Term

MOST_MESSAGES = 64

Short = Annotated[str, Field(max_length=200)]


def only(holds: Callable[[Any], bool], why: str) -> AfterValidator:
    """Take a field with values that ask for what happens anyway; any other is refused, and why."""

    def check(value: Any) -> Any:  # noqa: ANN401  any field
        if value is not None and not holds(value):
            raise PydanticCustomError("unsupported_option", "{why}", {"why": why})
        return value

    return AfterValidator(check)


class TextPart(Payload):
    """Text of a message."""

    type: Literal["text"]
    text: str


class Url(Payload):
    """Where the audio is, or the audio itself."""

    url: AudioUrl = Field(
        description="http(s) URL, or data URL with base64.", examples=["data:audio/wav;base64,UklGR…"]
    )


class AudioUrlPart(Payload):
    """Audio as vLLM and qwen-asr-serve take it."""

    type: Literal["audio_url"]
    audio_url: Url


class InputAudio(Payload):
    """OpenAI's form has bare base64 and a format, DashScope's a URL or data URL."""

    data: AudioData = Field(description="Base64 (OpenAI), or an http(s) URL or data URL (DashScope).")
    format: Short | None = Field(None, description="Not looked at: the format is found in the content.")


class InputAudioPart(Payload):
    """Audio as OpenAI and DashScope take it."""

    type: Literal["input_audio"]
    input_audio: InputAudio


def _parts(content: Any) -> Any:  # noqa: ANN401  what JSON says
    """A plain string is one part of text."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Texts = Annotated[
    list[TextPart],
    Field(max_length=MOST_MESSAGES),
    BeforeValidator(_parts, json_schema_input_type=str | list[TextPart]),
]
Part = Annotated[TextPart | AudioUrlPart | InputAudioPart, Field(discriminator="type")]
Parts = Annotated[
    list[Part], Field(max_length=MOST_MESSAGES), BeforeValidator(_parts, json_schema_input_type=str | list[Part])
]


class SystemMessage(Payload):
    """Context: names, terms, topic, earlier text."""

    role: Literal["system", "developer"]
    content: Texts


class UserMessage(Payload):
    """The one recording."""

    role: Literal["user"]
    content: Parts


class AssistantMessage(Payload):
    """Only as vLLM's way to force the language: `language English<asr_text>`, to be continued."""

    role: Literal["assistant"]
    content: Texts


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class VocabularyWord(Payload):
    """A word that is expected."""

    word: str = Field(min_length=1, max_length=LONGEST_WORD, examples=["不二家"])
    sounds_like: list[Annotated[str, Field(max_length=LONGEST_SOUND)]] = Field(
        default_factory=list,
        max_length=MOST_SOUNDS,
        description="Spellings by sound: pinyin without tones, respelling for Latin script.",
        examples=[["bu er jia"]],
    )
    weight: float = Field(1.0, gt=0, le=1000, description="Words of more weight go first where only some fit.")

    @property
    def term(self) -> Term:
        """As the pipeline takes it."""
        return Term(self.word, tuple(self.sounds_like), self.weight)


class AsrOptions(Payload):
    """How to recognise; the names are DashScope's where it has them."""

    language: Short | None = Field(None, description="`zh`, `en`, `Chinese` …; left out or `auto`: detected.")
    languages: list[Short] = Field(
        default_factory=list, max_length=100, description="The only languages that may be detected."
    )
    custom_vocabulary_word: list[VocabularyWord] = Field(
        default_factory=list, max_length=MOST_TERMS, description="Words that are expected."
    )
    vocabularies: list[Short] = Field(
        default_factory=list, max_length=100, description="Names of word lists in the service's settings."
    )
    enable_itn: bool | None = Field(
        None, description="Write spoken numbers, dates and the like in figures; left out: as the operator set it."
    )
    enable_lid: bool = Field(default=True, description="Name the language in `annotations`.")
    script: Script | None = Field(None, description="The characters Chinese is written in.")
    content: Literal["raw", "text"] | None = Field(
        None,
        description="`raw`: `language English<asr_text>…`, as qwen-asr-serve answers. `text`: the text alone. Left "
        "out: `text` for DashScope's form of `input_audio` and for a language forced by vLLM's way, else `raw`.",
    )


class StreamOptions(Payload):
    """What comes with a stream."""

    include_usage: bool = Field(default=False, description="End with a chunk that has `usage` and no choices.")


class ResponseFormat(Payload):
    """Only text."""

    type: Annotated[str, only(lambda kind: kind == "text", "Answers are text; leave it out.")]


class ChatFields(Payload):
    """The request."""

    model: str | None = Field(None, max_length=200, description="Model name; left out: the default model.")
    messages: list[Message] = Field(
        max_length=MOST_MESSAGES,
        description="One user message with one recording; a system message is context for it.",
    )
    asr_options: AsrOptions = AsrOptions()
    stream: bool = Field(default=False, description="Send the text in chunks while later audio is recognised.")
    stream_options: StreamOptions | None = Field(None, description="Only with `stream`.")
    continue_final_message: bool = Field(
        default=False, description="The last message, `language English<asr_text>` by the assistant, is continued."
    )
    add_generation_prompt: bool | None = Field(None, description="False goes with `continue_final_message`.")
    max_tokens: int | None = Field(
        None, ge=1, description="A transcript is never cut. When it has more tokens, `finish_reason` is `length`."
    )
    max_completion_tokens: int | None = Field(None, ge=1, description="As `max_tokens`.")

    # Taken with the values that ask for what happens anyway.
    temperature: Annotated[
        float | None, only(lambda t: 0 <= t <= 0.01, "Decoding is deterministic here; send 0 or leave it out.")
    ] = None
    n: Annotated[int | None, only(lambda n: n == 1, "There is one transcript of a recording.")] = None
    stop: Annotated[str | list[str] | None, only(lambda s: not s, "A transcript is not cut at a word.")] = None
    presence_penalty: Annotated[float | None, only(lambda p: p == 0, "What is said twice is written twice.")] = None
    frequency_penalty: Annotated[float | None, only(lambda p: p == 0, "What is said twice is written twice.")] = None
    repetition_penalty: Annotated[float | None, only(lambda p: p == 1, "What is said twice is written twice.")] = None
    logprobs: Annotated[bool | None, only(lambda wanted: not wanted, "Probabilities of tokens are not given.")] = None
    top_logprobs: Annotated[int | None, only(lambda n: n == 0, "Probabilities of tokens are not given.")] = None
    logit_bias: Annotated[
        dict[str, float] | None, only(lambda bias: not bias, "Use asr_options.custom_vocabulary_word.")
    ] = None
    tools: Annotated[list[Any] | None, only(lambda tools: not tools, "Recordings are transcribed; nothing else.")] = (
        None
    )
    tool_choice: Annotated[Any, only(lambda choice: choice == "none", "There are no tools here.")] = None
    functions: Annotated[list[Any] | None, only(lambda tools: not tools, "There are no functions here.")] = None
    modalities: Annotated[list[str] | None, only(lambda m: m == ["text"], "Answers are text.")] = None
    response_format: ResponseFormat | None = None
    store: Annotated[bool | None, only(lambda store: not store, "Nothing is stored here.")] = None

    # Without effect on a deterministic transcript, whatever they say.
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    parallel_tool_calls: bool | None = None
    user: Short | None = None
    safety_identifier: Short | None = None
    prompt_cache_key: Short | None = None
    metadata: dict[str, str] | None = None
