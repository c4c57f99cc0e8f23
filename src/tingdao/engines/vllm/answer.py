"""The answer to one clip, put together from what one server or several say.

A server may be asked twice (for the language, then for the text behind a prefix), may fail half-way, and may have to be
asked for what is known already. What was shown to a caller stays: the next server goes on from it, or says the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tingdao.engines.base import Ask, Ended, Recognition
from tingdao.engines.qwen import dialogue
from tingdao.engines.qwen.answer import TAG, hears_nothing, opening, parse
from tingdao.engines.vllm.client import Request
from tingdao.engines.vllm.examine import Facts
from tingdao.engines.vllm.prompt import Question
from tingdao.engines.vllm.wire import Broken, Piece
from tingdao.types import Usage


@dataclass(slots=True)
class Answer:
    """What has been said about one clip so far, by however many servers.

    budget: tokens that it may have. said: as the model says it. ids: of its tokens; characters where a server tells
    none. tokens: that the model chose itself, without the end. shown: characters of `said` that were given away.
    known: what was said before, with its tokens, while a server that cannot go on from it says it again.
    """

    ask: Ask
    budget: int
    said: str = ""
    ids: list[int] = field(default_factory=list)
    tokens: int = 0
    prompt_tokens: int | None = None
    shown: int = 0
    known: tuple[str, int] = ("", 0)
    ended: Ended | None = None
    _finish: Ended | None = None
    _told: bool = False

    @property
    def tag_only(self) -> bool:
        """Whether the next server is asked for the language only: a prefix goes behind the tag."""
        return self.ask.language is None and bool(self.ask.prefix) and TAG not in self.said

    @property
    def lead(self) -> str:
        """What is put into the model's mouth for it to go on with."""
        if self.ask.language is not None:
            return opening(self.ask.language, self.ask.prefix) + self.said
        return self.said

    @property
    def budget_left(self) -> int:
        """Tokens that may still come."""
        return max(1, self.budget - self.tokens)

    def request(self, question: Question, facts: Facts) -> Request:
        """What a server is asked for next."""
        model = facts.identity.model
        if facts.continues or self.ask.language is None:
            return question.chat(model, self.lead, self.budget_left, tag_only=self.tag_only)
        return question.upload(model, self.ask.language, self.budget_left)

    def take(self, pieces: Iterable[Piece]) -> str:
        """The next pieces; gives what can be shown, and decides whether the answer has come to repeat itself."""
        for piece in pieces:
            self._take(piece)
            if self.ended:
                break
        return self._fresh()

    def turn(self, *, tag_only: bool) -> str:
        """A server has said all that it was asked for; gives what can be shown."""
        finish, self._finish = self._finish, None
        if tag_only and finish == "stop" and TAG in self.said and not hears_nothing(self.said.partition(TAG)[0]):
            self.said += self.ask.prefix
        else:
            self.ended = self.ended or finish
        return self._fresh()

    def say_again(self) -> None:
        """The next server says everything from the beginning."""
        self.known = (self.said, self.tokens)
        self._forget()

    def restart(self) -> None:
        """Forget what a server said that then failed, unless it was shown."""
        if not self.shown:
            self._forget()
        elif len(self.said) < self.shown:
            self.said, self.tokens = self.known
        self._finish = None

    def recognition(self) -> Recognition:
        """What it means."""
        assert self.ended is not None
        text, language = parse(self.said, self.ask)
        return Recognition(text, language, usage=Usage(self.prompt_tokens or 0, self.tokens), ended=self.ended)

    def _forget(self) -> None:
        self.said, self.tokens, self.prompt_tokens, self._told = "", 0, None, False
        self.ids.clear()

    def _take(self, piece: Piece) -> None:
        self.said += piece.text
        if self.prompt_tokens is None:
            self.prompt_tokens = piece.prompt_tokens
        if piece.tokens is not None:
            self._told = True
            tokens = piece.tokens[: len(piece.tokens) - piece.ended_itself]
            self.tokens += len(tokens)
        else:
            tokens = [ord(character) for character in piece.text]
            if piece.completion_tokens and not self._told:  # once, with the end, after everything else
                self.tokens += piece.completion_tokens - (self._finish == "stop")
        for token in tokens:
            self.ids.append(token)
            if dialogue.loops(self.ids):
                self.ended = "loop"
                break
        if piece.finish:
            self._finish = "length" if piece.finish == "length" else "stop"

    def _fresh(self) -> str:
        if len(self.said) < self.shown and not self.ended:
            return ""
        if not self.said.startswith(self.known[0][: self.shown]):
            self.said, self.ended = "", None  # what was shown stands, for the next server to go on from
            raise Broken("It says something else than the server before it")
        if self.ask.language is None and TAG not in self.said:
            return ""
        fresh, self.shown = self.said[self.shown :], len(self.said)
        return fresh
