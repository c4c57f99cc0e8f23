"""A chat request → what to transcribe, how, and in which form to answer.

A conversation makes sense here when it has one recording, in a message of the user. Messages of the system are
context for it. A last message of the assistant, `language English<asr_text>` to be continued, forces the language:
that is how it is done with vLLM, which answers such a request with the text alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tingdao.api.chat_fields import (
    AssistantMessage,
    AudioUrlPart,
    ChatFields,
    InputAudioPart,
    SystemMessage,
    TextPart,
    UserMessage,
)
from tingdao.api.inline import Inline
from tingdao.errors import BadRequest, ContextTooLong, UnsupportedOption
from tingdao.text import terms
from tingdao.types import Options

LONGEST_CONTEXT = 10_000
"""Characters of all messages of the system."""
FORCED = re.compile(r"\s*language\s+([\w-]+)\s*<asr_text>\s*")


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request comes down to.

    audio: decoded, or where to fetch it.
    raw: whether the content begins with the language.
    annotate: whether the language is named beside it.
    room: tokens that the client expects at most, or None.
    usage_chunk: whether a stream ends with the usage.
    """

    audio: Inline | str
    model: str | None
    options: Options
    raw: bool
    annotate: bool
    room: int | None
    stream: bool
    usage_chunk: bool


@dataclass(frozen=True, slots=True)
class _Recording:
    """A recording of the conversation. param: its field. dashscope: whether it came in DashScope's form."""

    audio: Inline | str
    param: str
    dashscope: bool


def read(fields: ChatFields) -> Ask:
    """The request in the service's own terms. Raises BadRequest for what makes no sense."""
    recording = _recording(fields)
    forced = _forced(fields)
    if fields.stream_options is not None and not fields.stream:
        raise BadRequest("The field 'stream_options' goes with stream=true.", param="stream_options")
    asked = fields.asr_options
    if forced is not None and asked.language not in (None, "", "auto", forced):
        raise BadRequest(
            "The message to continue names another language than asr_options.", param="asr_options.language"
        )
    context, prompted = terms.context_or_terms(_context(fields))
    rooms = [room for room in (fields.max_tokens, fields.max_completion_tokens) if room is not None]
    return Ask(
        audio=recording.audio,
        model=fields.model,
        options=Options(
            language=forced or asked.language,
            languages=tuple(asked.languages),
            context=context,
            terms=terms.merged((word.term for word in asked.custom_vocabulary_word), prompted),
            vocabularies=tuple(asked.vocabularies),
            numbers=asked.enable_itn,
            script=asked.script,
        ),
        raw=asked.content == "raw" if asked.content else forced is None and not recording.dashscope,
        annotate=asked.enable_lid,
        room=min(rooms, default=None),
        stream=fields.stream,
        usage_chunk=fields.stream_options is not None and fields.stream_options.include_usage,
    )


def _recording(fields: ChatFields) -> _Recording:
    """The one recording. Raises BadRequest for none and for several, UnsupportedOption for text beside it."""
    found: list[_Recording] = []
    texts = []
    for number, message in enumerate(fields.messages):
        for at, part in enumerate(message.content if isinstance(message, UserMessage) else ()):
            where = f"messages[{number}].content[{at}]"
            match part:
                case AudioUrlPart():
                    found.append(_Recording(part.audio_url.url, f"{where}.audio_url", dashscope=False))
                case InputAudioPart():
                    audio = part.input_audio.data
                    bare = isinstance(audio, Inline) and audio.media_type is None
                    found.append(_Recording(audio, f"{where}.input_audio", dashscope=not bare))
                case TextPart() if part.text.strip():
                    texts.append(where)
    if len(found) != 1:
        raise BadRequest(
            f"The messages have {len(found) or 'no'} recording{'s'[: len(found)]}. This service transcribes and does "
            'not chat: send one, in a message of the user, as {"type": "audio_url", "audio_url": {"url": …}}.',
            param=found[1].param if found else "messages",
        )
    if texts:
        raise UnsupportedOption(
            "Text beside the recording is not read: Qwen3-ASR transcribes and follows no instructions. Put names, "
            "terms and topic into a message of the system.",
            param=texts[0],
        )
    return found[0]


def _context(fields: ChatFields) -> str:
    """The text of all messages of the system. Raises ContextTooLong."""
    texts = [
        "".join(part.text for part in message.content)
        for message in fields.messages
        if isinstance(message, SystemMessage)
    ]
    context = "\n".join(text for text in texts if text)
    if len(context) > LONGEST_CONTEXT:
        raise ContextTooLong(
            f"The context has {len(context)} characters; {LONGEST_CONTEXT} are taken. Shorten it.", param="messages"
        )
    return context


def _forced(fields: ChatFields) -> str | None:
    """The language that the answer is made to begin with. Raises BadRequest where nothing is to be continued."""
    forced = None
    for number, message in enumerate(fields.messages, 1):
        if not isinstance(message, AssistantMessage):
            continue
        if number < len(fields.messages) or not fields.continue_final_message:
            raise UnsupportedOption(
                "A message of the assistant can only be the last one, with continue_final_message=true, to force the "
                "language.",
                param=f"messages[{number - 1}].role",
            )
        said = FORCED.fullmatch("".join(part.text for part in message.content))
        if said is None:
            raise UnsupportedOption(
                "The message to continue can only be `language English<asr_text>`, with the name of the language.",
                param=f"messages[{number - 1}].content",
            )
        forced = said[1]
    if fields.continue_final_message and forced is None:
        raise BadRequest("There is no final message of the assistant to continue.", param="continue_final_message")
    if fields.add_generation_prompt is (forced is not None):
        raise BadRequest(
            "The field 'add_generation_prompt' is false with continue_final_message, and true without it.",
            param="add_generation_prompt",
        )
    return forced
