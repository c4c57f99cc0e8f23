"""Qwen3-ASR on one or many vLLM servers, as one engine.

    recognise(clip, ask) ─ Question (FLAC, context) ─► Upstreams: which server? ─► Wire ─► pieces ─► text and language
                                                            ▲ another one, when it fails ────┘

What an answer means, when it loops and how long it may be is the same as in this process (`qwen.answer`,
`qwen.dialogue`). A caller that leaves, and a loop, close the connection, which ends the work on the server. When a
server fails, another one begins again, or goes on from the text that a live caller has already been given; one that
cannot go on from a text says it once more, and what is known is not given again.

Servers differ in what they can be told (`examine.Facts`): a clip goes only to those that can do what is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from tingdao import languages
from tingdao.cores import on_core
from tingdao.engines.base import Ability, Ask, ModelCard, NotTaken, Partial, Recognition
from tingdao.engines.qwen.answer import AnswerReader
from tingdao.engines.qwen.dialogue import answer_budget
from tingdao.engines.vllm.answer import Answer
from tingdao.engines.vllm.child import Child
from tingdao.engines.vllm.client import Address
from tingdao.engines.vllm.examine import Facts, examine, room
from tingdao.engines.vllm.fleet import Fleet
from tingdao.engines.vllm.prompt import Encoding, Question, plain
from tingdao.engines.vllm.roster import Lookup, resolve, system_lookup
from tingdao.engines.vllm.upstreams import Call, Moved, NoneUp, Upstream
from tingdao.engines.vllm.wire import Broken, Busy, Misfit, Refused, Unreachable, UpstreamError, Wire
from tingdao.errors import (
    ContextTooLong,
    EngineFailed,
    ModelUnavailable,
    TooLong,
    UnknownLanguage,
    UnsupportedOption,
)
from tingdao.settings import VllmSettings
from tingdao.types import Clip

log = logging.getLogger(__name__)

AT_ONCE = (
    *("upstreams", "width", "encoding", "pass_through_s", "context_tokens", "idle_timeout_s", "timeout_s", "retries"),
    *("wait_s", "canary_s", "canary_timeout_s", "resolve_s"),
)
"""Settings that may change while it serves; with others it is another engine."""
GATHER_SECONDS = 0.25
"""How long pieces gather that nobody waits for: loops and silence must be seen, the words need not be."""


class VllmEngine:
    """One model on all servers of the settings. Raises SetupError for settings that cannot be used."""

    def __init__(self, settings: VllmSettings, lookup: Lookup = system_lookup) -> None:
        self._settings = settings
        self._wire = Wire(settings)
        self.fleet = Fleet(settings, self._wire, self._found_out, lookup)
        devices = (settings.devices or (None,)) if settings.serve else ()
        self._children = [Child(settings, device, self._wire, self.fleet) for device in devices]
        self._keeping: list[asyncio.Task[None]] = []
        self._closed = False
        self._found_out()

    async def open(self) -> None:
        """Find and start the servers; returns when one is up or none can be for now.

        Whoever gives this up closes it.
        """
        self._keeping = [asyncio.create_task(child.keep(), name=child.name) for child in self._children]
        await self.fleet.open()

    @property
    def trouble(self) -> str | None:
        """Why it cannot recognise now, in words for the operator; None while it can."""
        return self.fleet.trouble

    async def recognise(self, clip: Clip, ask: Ask) -> Recognition:
        """Recognise one clip.

        Raises EngineFailed, ModelUnavailable, UnknownLanguage, ContextTooLong, TooLong, UnsupportedOption; and
        NotTaken for a clip as it was sent.
        """
        answer = Answer(ask, answer_budget(clip, ask))
        tries = self._one_try if clip.sent else self._tries
        async with aclosing(tries(clip, ask, answer, GATHER_SECONDS)) as pieces:
            async for _ in pieces:
                answer.shown = 0  # to nobody
        return answer.recognition()

    async def recognise_stream(self, clip: Clip, ask: Ask) -> AsyncIterator[Partial]:
        """Recognise one clip and yield text as it comes. Raises as `recognise`."""
        answer, reader = Answer(ask, answer_budget(clip, ask)), AnswerReader(ask)
        async with aclosing(self._tries(clip, ask, answer)) as pieces:
            async for piece in pieces:
                if delta := reader.more(piece):
                    yield Partial(delta)
        recognition = answer.recognition()
        yield Partial(reader.rest(recognition.text), recognition)

    async def adopt(self, settings: VllmSettings) -> None:
        """Take up settings that differ only in those `AT_ONCE`. Raises as `Fleet.follow`; then all is as before."""
        await self.fleet.follow(settings)
        self._settings = settings
        self._found_out()

    async def close(self) -> None:
        """End all calls with EngineFailed, all connections, and the servers that were started."""
        self._closed = True
        await self.fleet.close()
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        await self._wire.close()

    def _found_out(self) -> None:
        """The card follows what the servers that are up can do."""
        up = self.fleet.upstreams.up
        facts = [self.fleet.facts[upstream] for upstream in up]
        lengths = [each.identity.length for each in facts if each.identity.length]
        self._context_limit, clip_limit = room(min(lengths, default=None), self._settings.context_tokens)
        encoding: Encoding = "wav" if up and all(self.fleet.address(each).local for each in up) else "flac"
        self._encoding = encoding if self._settings.encoding == "auto" else self._settings.encoding
        can: frozenset[Ability] = frozenset().union(*(each.can for each in facts))
        self.card = ModelCard(
            name=self._settings.name,
            family="qwen3-asr",
            languages=frozenset(languages.NAMES),
            clip_limit=clip_limit,
            width=self._settings.width * max(1, len(facts)),
            can=can or frozenset({"stream", "context", "force_language"}),
            sent_limit=min(self._settings.pass_through_s, clip_limit),
        )

    async def _one_try(self, clip: Clip, ask: Ask, answer: Answer, gather: float) -> AsyncGenerator[str, None]:
        """As `_tries`, of a clip as it was sent. Raises NotTaken.

        Whatever goes wrong may be the file's fault. So no other server is asked, and nothing is held against this one.
        """
        self._check(clip, ask)
        try:
            question = Question.of(clip, ask.context)
            async with self.fleet.upstreams.call(clip.duration, set(), 0.0, self._fit(clip, ask)) as call:
                async with aclosing(self._try(call, question, answer, gather)) as pieces:
                    async for piece in pieces:
                        yield piece
                self.fleet.upstreams.answered(call)
        except (UpstreamError, Moved, NoneUp) as error:
            raise NotTaken(str(error) or type(error).__name__) from None

    async def _tries(self, clip: Clip, ask: Ask, answer: Answer, gather: float = 0.0) -> AsyncGenerator[str, None]:
        """What is said, piece by piece, by one server or the next. gather: see `Wire.ask`."""
        self._check(clip, ask)
        question = await on_core(Question.of, clip, ask.context, self._encoding)
        tried: set[Upstream] = set()
        left = self._settings.retries
        deadline = asyncio.get_running_loop().time() + self._settings.timeout_s
        fit = self._fit(clip, ask)
        while answer.ended is None:
            try:
                async with self.fleet.upstreams.call(clip.duration, tried, self._settings.wait_s, fit) as call:
                    try:
                        async with aclosing(self._try(call, question, answer, gather)) as pieces:
                            async for piece in pieces:
                                yield piece
                        self.fleet.upstreams.answered(call)
                        continue
                    except Refused as error:
                        raise _refusal(error, ask, call.upstream) from None
                    except Moved:
                        reason, counts = "it was silent for too long", not self._closed
                        if counts and call.upstream.state == "up":
                            self.fleet.upstreams.failed(call, reason)
                    except UpstreamError as error:
                        reason, counts = str(error), not isinstance(error, Busy)
                        self._blame(call, error)
            except NoneUp:
                raise ModelUnavailable(
                    f"No server of the model {self._settings.name!r} can be reached now. Try again.", retry_after=5
                ) from None
            left -= counts
            tried.add(call.upstream)
            if self._closed or left < 0 or asyncio.get_running_loop().time() > deadline:
                log.error("clip failed", extra={"model": self._settings.name, "reason": reason, "tried": len(tried)})
                raise EngineFailed("The model failed on a part of this recording. Try again.")
            answer.restart()

    async def _try(self, call: Call, question: Question, answer: Answer, gather: float) -> AsyncGenerator[str, None]:
        """What one server says. Raises UpstreamError, Moved."""
        address, facts = self.fleet.address(call.upstream), self.fleet.facts[call.upstream]
        await self._check_context(call, facts.identity.model, answer.ask.context)
        if not facts.continues:
            answer.say_again()
        while answer.ended is None:
            tag_only, request = answer.tag_only, answer.request(question, facts)
            async with aclosing(self._wire.ask(address, request, gather)) as answered:
                while True:
                    try:
                        pieces = await call.wait(lambda: anext(answered, None), self._settings.idle_timeout_s)
                    except TimeoutError:
                        raise Broken(f"Nothing came for {self._settings.idle_timeout_s:g} s") from None
                    if pieces is None:
                        break
                    if said := answer.take(pieces):
                        yield said
                    if answer.ended == "loop":
                        break
            if said := answer.turn(tag_only=tag_only):
                yield said
            elif answer.ended is None:
                raise Broken("Its answer ended without a reason")

    async def _check_context(self, call: Call, model: str, context: str) -> None:
        """Raises ContextTooLong. A token is a byte at least, so short contexts need not be counted."""
        if len(context.encode()) <= self._context_limit:
            return
        address = self.fleet.address(call.upstream)
        try:
            count = await call.wait(
                lambda: self._wire.count(address, model, f"system\n{plain(context)}"), self._settings.idle_timeout_s
            )
        except TimeoutError:
            raise Broken(f"It did not count tokens within {self._settings.idle_timeout_s:g} s") from None
        except Misfit:
            return  # it does not count; the model's own length is the limit then
        if count > self._context_limit:
            raise ContextTooLong(
                f"The context has {count} tokens; this model takes {self._context_limit}. Shorten it.", param="context"
            )

    def _fit(self, clip: Clip, ask: Ask) -> Callable[[Upstream], bool]:
        """Whether a server can do what is asked."""
        return lambda upstream: self.fleet.facts[upstream].why_not(ask, clip.duration) is None

    def _blame(self, call: Call, error: UpstreamError) -> None:
        upstreams = self.fleet.upstreams
        if isinstance(error, Busy):
            upstreams.rest(call.upstream)
        else:
            upstreams.failed(call, str(error), gone=isinstance(error, Unreachable | Misfit))

    def _check(self, clip: Clip, ask: Ask) -> None:
        """Raises UnknownLanguage, UnsupportedOption, ContextTooLong, TooLong."""
        if ask.language is not None and ask.language not in self.card.languages:
            raise UnknownLanguage(f"Qwen3-ASR does not recognise {ask.language!r}.", param="language")
        if ask.words:
            raise UnsupportedOption("Qwen3-ASR gives no word times itself.", param="words")
        reasons = [self.fleet.facts[upstream].why_not(ask, clip.duration) for upstream in self.fleet.upstreams.up]
        if reasons and all(reasons):
            raise UnsupportedOption(f"No server of this model can do that; of one, {reasons[0]}.", param="language")
        if clip.duration > self.card.clip_limit:
            raise TooLong(
                f"A clip of {clip.duration:.0f} s is more than this model takes in one piece here. Lower the clip "
                "limit ([audio] clip_limit_s)."
            )


def _refusal(error: Refused, ask: Ask, upstream: Upstream) -> Exception:
    """What a caller is told of a request that a server refuses."""
    log.error("upstream refused", extra={"upstream": upstream.name, "reason": str(error)})
    if error.too_long:
        if ask.context:
            return ContextTooLong("The context is longer than this model takes. Shorten it.", param="context")
        return TooLong("A clip is more than this model takes in one piece here. Lower [audio] clip_limit_s.")
    return EngineFailed("The model failed on a part of this recording. Try again, or in parts.")


async def examine_all(settings: VllmSettings, lookup: Lookup = system_lookup) -> list[tuple[str, Facts | str]]:
    """Each server of the settings, and what it can or why it cannot be used. Raises SetupError."""
    wire = Wire(settings)

    async def one(address: Address) -> tuple[str, Facts | str]:
        try:
            facts, _, _ = await examine(wire, address, settings)
        except UpstreamError as error:
            return str(address), str(error)
        return str(address), facts

    found: list[tuple[str, Facts | str]] = []
    try:
        for url in settings.upstreams:
            try:
                addresses = await resolve(url, lookup)
            except OSError as error:
                found.append((url, f"The name cannot be looked up: {error}"))
                continue
            found += await asyncio.gather(*(one(address) for address in addresses))
    finally:
        await wire.close()
    return found
