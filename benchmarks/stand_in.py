"""A stand-in engine: what vLLM 0.32's Python frontend says, without a model behind it.

It imitates the wire: routes, JSON forms, the order and framing of SSE events, error bodies, the
metrics a router reads, prompt token ids, exact continuation of a text through `/v1/completions`,
aborting when the client goes. It imitates continuous batching's rhythm: one step clock at which
every running request gets one token, a prefill time, a limit on running sequences with a queue.

It does not imitate a model (the text is a script), a scheduler's slowdown under load, KV memory,
sampling parameters, stop strings, logprobs, tools, structured outputs, or flow control towards a
client that reads slowly. A request's fields are not validated as vLLM does, beyond the model's
name and the lengths. Forms were read in vLLM 0.32's `entrypoints/openai/{chat_completion,
completion}/serving.py`, `entrypoints/serve/{tokenize,engine,exception_handling}`, and its
deepseek_r1 reasoning parser.

    python -m benchmarks.stand_in --port 8100 --step-ms 20 --mode split

    async with StandInEngine(Options(mode="raw", step_ms=1)) as engine:   # on a free port
        ...engine.url...

The text is the options' default, or a script that the request brings: JSON after `script:` in the
last user message, or in `vllm_xargs.script`. See `Script` for its keys and `Fault` for faults;
`GET /stand_in/state` shows counters and the last requests, `POST /stand_in/fault` arms a fault.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import re
import signal
import socket
import struct
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from itertools import dropwhile
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, cast

import httptools

Json = dict[str, Any]

FINGERPRINT = "vllm-0.32.0-standin0"
POLL_S = 0.01

# --- options, scripts, faults -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to misbehave. `after` counts token events (tokens, when not streaming).

    Before any answer: `status` (answers `status`), `never` (accepts, stays silent),
    `content_type` (200 with an HTML page). In mid-stream, once `after` events went out (0: before
    the event with the role): `close` (ends the connection without ending the body), `reset`
    (RST), `stall` (keeps it open, says no more), `garbage` (an event that is not JSON, then goes
    on), `truncated` (half an event or half a JSON body, then a proper end), `error` (vLLM's error
    event and `[DONE]`). Throughout: `slow` (a token every `every` steps), `fragment` (HTTP chunks
    of `size` bytes, so that events and characters arrive split).
    """

    kind: Literal[
        "status",
        "never",
        "content_type",
        "close",
        "reset",
        "stall",
        "garbage",
        "truncated",
        "error",
        "slow",
        "fragment",
    ]
    after: int = 0
    status: int = 500
    times: int | None = None  # how many requests an armed fault hits; None: all
    every: int = 10
    size: int = 1


@dataclass(frozen=True, slots=True)
class Script:
    """What one request's generation says.

    `think` and `answer` are texts, or numbers of tokens of filler; `think=None` leaves the trace
    out and with it `</think>`. `chunks` replaces both: one entry per token event, raw text (which
    may hold the tags) or a literal delta object. `finish_reason` ends it without an end token.
    `choices` gives one script per choice, picked by `seed` + index. `opens` puts `<think>` first.
    `gives_up_after` ends a trace that isn't closed by then with an end token, after so many tokens.
    """

    think: str | int | None = None
    answer: str | int = ""
    chunks: tuple[str | Json, ...] | None = None
    finish_reason: str = "stop"
    choices: tuple[Json, ...] = ()
    opens: bool = False
    gives_up_after: int | None = None
    fault: Fault | None = None

    @classmethod
    def parse(cls, values: Json, options: Options) -> Self:
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"script: unknown key {unknown[0]!r}; known: {sorted(known)}")
        fields = {"think": options.think_tokens, "answer": options.answer_tokens, **values}
        for name in ("chunks", "choices"):
            if fields.get(name) is not None:
                fields[name] = tuple(fields[name])
        if isinstance(fault := fields.get("fault"), dict):
            fields["fault"] = Fault(**fault)
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Options:
    """How the stand-in is set up; the command line has the same names."""

    model: str = "stand-in"
    max_model_len: int = 32768
    mode: Literal["split", "raw"] = "split"
    step_ms: float = 20.0
    prefill_ms: float = 5.0
    max_num_seqs: int = 256
    max_num_queued_reqs: int | None = None
    stream_interval: int = 1
    think_tokens: int = 96
    answer_tokens: int = 32
    fault: Fault | None = None
    keep_bodies: int = 64
    shutdown_timeout_s: float = 0.0
    """On SIGTERM, as vLLM's `--shutdown-timeout`: what runs may end, what comes is refused."""


# --- tokens -------------------------------------------------------------------------------------

EOS, USER, ASSISTANT, BOS, THINK, END_THINK = 151643, 151644, 151645, 151646, 151648, 151649
_SPECIAL = {
    "<｜end▁of▁sentence｜>": EOS,
    "<｜User｜>": USER,
    "<｜Assistant｜>": ASSISTANT,
    "<｜begin▁of▁sentence｜>": BOS,
    "<think>": THINK,
    "</think>": END_THINK,
}
_SENTENCE = (
    "so we add the next digit and carry one then check that sum again before moving left over "
    "each column until nothing remains because twelve plus nine gives twenty"
)
FILLER = tuple(_SENTENCE.split())
_WORDS = ("\n\n", *dict.fromkeys(" " + word for word in FILLER), " \\boxed{")
_CHARACTERS = 200_000  # one token per other character, from here on
_TO_ID = _SPECIAL | {word: 1000 + i for i, word in enumerate(_WORDS)}
_TO_TEXT = {i: text for text, i in _TO_ID.items()}
_SPLIT = re.compile("|".join(map(re.escape, sorted(_TO_ID, key=len, reverse=True))) + "|.", re.S)


def encode(text: str) -> list[int]:
    """Token ids: R1's own ids for its tags, a few whole words, else one per character.

    Stateless, so that two stand-ins agree, and exact: `decode(encode(text)) == text`.
    """
    return [_TO_ID.get(piece) or _CHARACTERS + ord(piece) for piece in _SPLIT.findall(text)]


def decode(ids: Iterable[int]) -> str:
    return "".join(
        _TO_TEXT.get(i) or (chr(i - _CHARACTERS) if i >= _CHARACTERS else "\ufffd") for i in ids
    )


def message_text(message: Json) -> str:
    content = message.get("content") or ""
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content)
    return str(content)


def render(messages: Sequence[Json], add_generation_prompt: bool = True) -> str:
    """R1's chat template: system texts bare, earlier traces dropped, the trace opened."""
    parts = ["<｜begin▁of▁sentence｜>"]
    parts += [message_text(m) for m in messages if m.get("role") in ("system", "developer")]
    for message in messages:
        if message.get("role") == "user":
            parts.append("<｜User｜>" + message_text(message))
        elif message.get("role") == "assistant":
            answer = message_text(message).rpartition("</think>")[2]
            parts.append("<｜Assistant｜>" + answer + "<｜end▁of▁sentence｜>")
    return "".join(parts) + ("<｜Assistant｜><think>\n" if add_generation_prompt else "")


# --- what a script says, token event by token event ---------------------------------------------


class Piece(NamedTuple):
    text: str
    ids: tuple[int, ...]
    delta: Json | None = None  # a literal delta, from a script


def _tokens(text: str | int) -> list[Piece]:
    if isinstance(text, int):
        text = "".join(" " + _filler(i) for i in range(text))
    return [Piece(decode((i,)), (i,)) for i in encode(text)]


def _filler(i: int) -> str:
    """The i-th word. Each round through the sentence takes longer steps, so that a long trace isn't
    one that loops."""
    step, at = divmod(i, len(FILLER))
    return FILLER[at * (step + 1) % len(FILLER)]


def _script_in(text: str) -> Json | None:
    _, found, rest = text.rpartition("script:")
    if not found:
        return None
    value: Json = json.JSONDecoder().raw_decode(rest.lstrip())[0]
    return value


def _whole(script: Script) -> list[Piece]:
    """Every piece of a fresh generation, without the end token."""
    if script.chunks is not None:
        return [
            Piece(c, tuple(encode(c)))
            if isinstance(c, str)
            else Piece("", tuple(encode(c.get("reasoning") or c.get("content") or "")), c)
            for c in script.chunks
        ]
    pieces = [Piece("<think>", (THINK,)), Piece("\n", _tokens("\n")[0].ids)] * script.opens
    if script.think is not None:
        pieces += [*_tokens(script.think), Piece("</think>", (END_THINK,))]
    return pieces + _tokens(script.answer)


def _drop(pieces: list[Piece], num_ids: int) -> list[Piece]:
    """The pieces that follow the first `num_ids` token ids."""
    for at, piece in enumerate(pieces):
        if num_ids < len(piece.ids):
            rest = piece.ids[num_ids:]
            return [piece if not num_ids else Piece(decode(rest), rest), *pieces[at + 1 :]]
        num_ids -= len(piece.ids)
    return []


def _continued(pieces: list[Piece], already: list[int]) -> list[Piece]:
    """What is left to say after `already`, the ids that follow the generation prompt.

    The script's own start: the rest of it. A trace closed early (ids end in `</think>` and
    blanks, or in a start of the answer): the answer. Another text: the trace from that length.
    """
    ids = [i for piece in pieces for i in piece.ids]
    if ids[: len(already)] == already:
        return _drop(pieces, len(already))
    end = ids.index(END_THINK) if END_THINK in ids else len(ids)
    if END_THINK not in already:
        return _drop(pieces, min(len(already), end))
    said = already[already.index(END_THINK) + 1 :]
    start = end + 1 if end < len(ids) else 0
    blanks = {*encode("\n"), *encode("\n\n")}
    if said and said[0] in blanks:
        said = list(dropwhile(blanks.__contains__, said))
        start += len(ids[start:]) - len(list(dropwhile(blanks.__contains__, ids[start:])))
    return _drop(pieces, start + len(said) if ids[start : start + len(said)] == said else start)


class Choice:
    """One sequence being generated."""

    __slots__ = (
        "done",
        "finish_reason",
        "held",
        "index",
        "literal",
        "num_tokens",
        "pieces",
        "thinking",
        "to",
    )

    def __init__(self, index: int, pieces: list[Piece], finish_reason: str, max_tokens: int):
        if finish_reason == "stop":
            pieces = [*pieces, Piece("", (EOS,))]
        self.pieces: list[Piece] = []
        for piece in pieces:
            if piece.ids and len(piece.ids) >= max_tokens:
                ids = piece.ids[:max_tokens]
                cut = piece if len(ids) == len(piece.ids) else Piece(decode(ids), ids)
                self.pieces.append(cut)
                finish_reason = finish_reason if piece.ids == (EOS,) else "length"
                break
            self.pieces.append(piece)
            max_tokens -= len(piece.ids)
        self.index, self.finish_reason = index, finish_reason
        self.to = 0
        self.num_tokens = 0
        self.held: list[Piece] = []
        self.thinking = True
        self.done = False
        self.literal = any(piece.delta is not None for piece in pieces)

    def step(self, interval: int) -> Piece | None:
        """The next token; the event to send for it, or None while `interval` holds it back."""
        piece = self.pieces[self.to] if self.to < len(self.pieces) else Piece("", ())
        self.to += 1
        self.num_tokens += len(piece.ids)
        self.done = self.to >= len(self.pieces)
        if interval == 1 or self.literal:
            return piece
        self.held.append(piece)
        if not (self.done or self.to == 1 or len(self.held) >= interval):
            return None
        held, self.held = self.held, []
        texts, ids = "".join(p.text for p in held), tuple(i for p in held for i in p.ids)
        return Piece(texts, ids, held[0].delta)

    def split(self, piece: Piece) -> Json | None:
        """vLLM's deepseek_r1 streaming parser; None for a tag that comes alone."""
        if not self.thinking:
            return {"content": piece.text}
        if END_THINK in piece.ids:
            self.thinking = False
            if len(piece.ids) == 1:
                return None
            reasoning, _, content = piece.text.partition("</think>")
            return {"reasoning": reasoning.partition("<think>")[2] or reasoning} | {
                "content": content or None
            }
        return None if piece.ids == (THINK,) else {"reasoning": piece.text}


# --- one request --------------------------------------------------------------------------------


def dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class ApiError(Exception):
    """A reply in vLLM's error form."""

    def __init__(self, status: int, message: str, kind: str, param: str | None = None):
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


class Call:
    """One accepted generation request and the reply being written for it."""

    def __init__(self, engine: StandInEngine, connection: Connection, chat: bool, body: Json):
        self.engine, self.connection, self.chat, self.body = engine, connection, chat, body
        options = engine.options
        self.prompt_ids, already, user = self._prompt()
        given = (body.get("vllm_xargs") or {}).get("script") or _script_in(user) or {}
        values: Json = json.loads(given) if isinstance(given, str) else given
        num_choices, max_tokens = int(body.get("n") or 1), self._max_tokens()
        self.choices = []
        self.fault = engine.take_fault()
        for index in range(num_choices):
            variants = values.get("choices")
            at = (int(body.get("seed") or 0) + index) % len(variants) if variants else 0
            script = Script.parse(values | variants[at] if variants else values, options)
            pieces = self._budgeted(_continued(_whole(script), already), len(already))
            if script.gives_up_after is not None and END_THINK not in already:
                pieces = pieces[: max(0, script.gives_up_after - len(already))]
            self.fault = self.fault or script.fault
            self.choices.append(Choice(index, pieces, script.finish_reason, max_tokens))
        self.stream = bool(body.get("stream"))
        usage = body.get("stream_options") or {}
        self.usage_asked = bool(usage.get("include_usage"))
        self.usage_always = self.usage_asked and bool(usage.get("continuous_usage_stats"))
        self.ids_asked = bool(body.get("return_token_ids"))
        self.interval = max(int(body.get("stream_interval") or 1), options.stream_interval)
        self.split = chat and options.mode == "split"
        self.id = ("chatcmpl-" if chat else "cmpl-") + connection.request_id()
        self.created = int(time.time())
        self.ready_at = 0.0
        self.num_events = self.num_steps = 0
        self.texts = ["" for _ in self.choices]
        name = "chat.completion.chunk" if chat else "text_completion"
        self.head = (
            f'data: {{"id":"{self.id}","object":"{name}","created":{self.created},'
            f'"model":{dumps(options.model)},"choices":['
        )

    def _prompt(self) -> tuple[list[int], list[int], str]:
        """The prompt's ids, those of them that continue a reply, and the last user text."""
        if self.chat:
            messages: list[Json] = self.body.get("messages") or []
            users = [message_text(m) for m in messages if m.get("role") == "user"]
            return encode(render(messages)), [], users[-1] if users else ""
        prompt = self.body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
            prompt = prompt[0]
        ids: list[int] = encode(prompt) if isinstance(prompt, str) else list(prompt or ())
        if not ids:
            message = "Either prompt or prompt_embeds must be provided and non-empty."
            raise ApiError(400, message, "BadRequestError", "prompt")
        turn = len(ids) - ids[::-1].index(ASSISTANT) if ASSISTANT in ids else len(ids)
        already = ids[turn:]
        opened = [THINK, *encode("\n")]
        already = already[len(opened) :] if already[: len(opened)] == opened else already
        users = decode(ids[:turn]).split("<｜User｜>")
        return ids, already, users[-1].removesuffix("<｜Assistant｜>")

    def _max_tokens(self) -> int:
        length, num_prompt = self.engine.options.max_model_len, len(self.prompt_ids)
        asked = self.body.get("max_completion_tokens") or self.body.get("max_tokens")
        if asked is not None and asked > length:
            raise ApiError(
                400,
                f"max_tokens={asked} cannot be greater than max_model_len={length}. "
                "Please request fewer output tokens.",
                "BadRequestError",
                "max_tokens",
            )
        if num_prompt > length:
            least = "at least " if num_prompt == length + 1 else ""
            raise ApiError(
                400,
                f"This model's maximum context length is {length} tokens. However, your prompt "
                f"contains {least}{num_prompt} input tokens, which exceeds this limit even "
                "without any output tokens. Please reduce the length of the input prompt.",
                "BadRequestError",
                "input_tokens",
            )
        default = 16 if not self.chat else length
        return min(asked if asked is not None else default, max(1, length - num_prompt))

    def _budgeted(self, pieces: list[Piece], num_thought: int) -> list[Piece]:
        """Closed once the thinking, what the prompt has of it included, is at its budget."""
        budget = self.body.get("thinking_token_budget")
        if budget is None:
            return pieces
        if self.engine.options.mode == "raw":
            raise ApiError(
                400,
                "thinking_token_budget is set but reasoning_config is not configured. Please set "
                "--reasoning-parser and/or --reasoning-config to use thinking_token_budget.",
                "BadRequestError",
            )
        budget = max(0, budget - num_thought)
        ends = [at for at, piece in enumerate(pieces) if END_THINK in piece.ids]
        return pieces[:budget] + pieces[ends[0] :] if ends and ends[0] > budget else pieces

    # -- stepping

    def start(self) -> None:
        if self.fault and self.fault.kind == "fragment":
            self.connection.fragment = self.fault.size
        if self.stream:
            self.connection.begin(200, "text/event-stream; charset=utf-8")

    def step(self) -> None:
        """One token for every choice that is still running, then the end once all are done."""
        self.num_steps += 1
        if self.fault and self.fault.kind == "slow" and self.num_steps % self.fault.every:
            return
        for choice in self.choices:
            if choice.done:
                continue
            if self.fault and self.num_events >= self.fault.after and self._break(self.fault):
                return
            if self.stream and not self.num_events:
                self._roles()
            before = choice.num_tokens
            piece = choice.step(self.interval if self.stream else 1)
            self.engine.generation_tokens += choice.num_tokens - before
            self.num_events += 1
            if not self.stream:
                self.texts[choice.index] += piece.text if piece else ""
            elif piece is not None:
                self._event(choice, piece)
        if all(choice.done for choice in self.choices):
            self._finish()

    def _roles(self) -> None:
        if not self.chat:
            return
        ids = dumps(self.prompt_ids) if self.ids_asked else "null"
        for choice in self.choices:
            delta = '{"role":"assistant","content":""}'
            text = (
                f'{{"index":{choice.index},"delta":{delta},"logprobs":null,"finish_reason":null}}],'
            )
            usage = self._usage_field(0) if self.usage_always else ""
            tail = f'{usage}"prompt_token_ids":{ids},"prompt_text":null}}\n\n'
            self.connection.send_text(f"{self.head}{text}{tail}")

    def _event(self, choice: Choice, piece: Piece) -> None:
        ids = dumps(piece.ids) if self.ids_asked else "null"
        finish = ',"finish_reason":null'
        if choice.done:
            finish = f',"finish_reason":"{choice.finish_reason}","stop_reason":null'
        elif not self.chat:
            finish = ',"finish_reason":null,"stop_reason":null'
        if self.chat:
            delta = piece.delta or (
                self.choices[choice.index].split(piece) if self.split else {"content": piece.text}
            )
            if delta is None:
                if not (self.ids_asked or choice.done):
                    return
                delta = {}
            body = f'"delta":{dumps(delta)},"logprobs":null{finish},"token_ids":{ids}}}]'
        else:
            first = self.ids_asked and choice.to == 1
            prompt = dumps(self.prompt_ids) if first else "null"
            body = (
                f'"text":{dumps(piece.text)},"logprobs":null{finish},'
                f'"prompt_token_ids":{prompt},"token_ids":{ids}}}]'
            )
        if self.usage_always:
            body += "," + self._usage_field(choice.num_tokens)[:-1]
        if choice.done and not self.usage_asked:
            body += f',"system_fingerprint":"{FINGERPRINT}"'
        self.connection.send_text(f'{self.head}{{"index":{choice.index},{body}}}\n\n')

    def usage(self, num_tokens: int, null_details: bool) -> Json:
        num_prompt = len(self.prompt_ids)
        usage: Json = {
            "prompt_tokens": num_prompt,
            "total_tokens": num_prompt + num_tokens,
            "completion_tokens": num_tokens,
        }
        if self.split:  # 0 is what vLLM says when the template opened the trace
            usage["completion_tokens_details"] = {"reasoning_tokens": 0}
        elif null_details and self.chat:
            usage["completion_tokens_details"] = None
        return usage

    def _usage_field(self, num_tokens: int) -> str:
        return f'"usage":{dumps(self.usage(num_tokens, null_details=True))},'

    def _finish(self) -> None:
        self.engine.end(self, "finished")
        num_tokens = sum(choice.num_tokens for choice in self.choices)
        if not self.stream:
            self.connection.reply(200, dumps(self._reply(num_tokens)).encode())
            return
        if self.usage_asked:
            usage = dumps(self.usage(num_tokens, null_details=False))
            tail = f'],"usage":{usage},"system_fingerprint":"{FINGERPRINT}"}}\n\n'
            self.connection.send_text(self.head + tail)
        self.connection.send_text("data: [DONE]\n\n")
        self.connection.finish()

    def _reply(self, num_tokens: int) -> Json:
        """A whole reply, with the null fields that vLLM's `model_dump()` leaves in."""
        choices = []
        for choice, text in zip(self.choices, self.texts, strict=True):
            ids = [i for piece in choice.pieces for i in piece.ids] if self.ids_asked else None
            ends: Json = {
                "logprobs": None,
                "finish_reason": choice.finish_reason,
                "stop_reason": None,
                "token_ids": ids,
                "routed_experts": None,
            }
            if not self.chat:
                prompt_ids = self.prompt_ids if self.ids_asked else None
                extra = {"prompt_logprobs": None, "prompt_token_ids": prompt_ids}
                choices.append({"index": choice.index, "text": text, **ends, **extra})
                continue
            reasoning, content = None, text
            if self.split:
                inner = text.partition("<think>")[2] or text
                reasoning, _, content = inner.partition("</think>")
            said = content or None if self.split else content
            message = {"role": "assistant", "content": said, "refusal": None}
            message |= {"annotations": None, "audio": None, "function_call": None}
            message["reasoning"] = reasoning
            choices.append({"index": choice.index, "message": message, **ends})
        usage = self.usage(num_tokens, null_details=True)
        return {
            "id": self.id,
            "object": "chat.completion" if self.chat else "text_completion",
            "created": self.created,
            "model": self.engine.options.model,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": {
                "prompt_tokens_details": None,
                "completion_tokens_details": None,
                **usage,
            },
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
            **(
                {
                    "prompt_logprobs": None,
                    "prompt_token_ids": self.prompt_ids if self.ids_asked else None,
                    "prompt_text": None,
                }
                if self.chat
                else {}
            ),
        }

    def _break(self, fault: Fault) -> bool:
        """Carries out a mid-stream fault; True when it ends the request."""
        kind, connection = fault.kind, self.connection
        if kind in ("slow", "fragment", "status", "never", "content_type"):
            return False
        if kind == "garbage":
            if self.num_events == fault.after and self.stream:
                connection.send_text('data: {"id": nonsense \x00\xfe\n\nwhat: is this\n\n')
            return False
        if kind == "stall":  # a wedged engine: still running, by its own gauge
            return True
        self.engine.end(self, "failed")
        if kind == "close":
            connection.close()
        elif kind == "reset":
            connection.reset()
        elif kind == "truncated":
            if self.stream:
                connection.send_text(self.head[: len(self.head) - 12])
                connection.finish()
            else:
                connection.reply(200, dumps(self._reply(0))[:80].encode())
        elif kind == "error":
            error = ApiError(500, "Internal server error", "InternalServerError").body
            if self.stream:
                connection.send_text(f"data: {json.dumps(error)}\n\n")
                connection.send_text("data: [DONE]\n\n")
                connection.finish()
            else:
                connection.reply(500, dumps(error).encode())
        return True


# --- the engine ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Counters:
    num_requests: int = 0
    finished: int = 0
    aborted: int = 0
    failed: int = 0
    rejected: int = 0
    prompt_tokens: int = 0
    by_reason: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("stop", "length", "abort", "error"), 0)
    )


class StandInEngine:
    """The server: step clock, queue and routes. Use it as an async context manager."""

    def __init__(self, options: Options | None = None, host: str = "127.0.0.1", port: int = 0):
        self.options = options or Options()
        self.host, self.port = host, port
        self.running: list[Call] = []
        self.waiting: deque[Call] = deque()
        self.counters = Counters()
        self.generation_tokens = 0
        self.requests: deque[Json] = deque(maxlen=self.options.keep_bodies)
        self.connections: set[Connection] = set()
        self.draining = False
        self._frozen_metrics: str | None = None
        self._fault: Fault | None = None
        self._fault_left: int | None = None
        self.arm(self.options.fault)
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self), self.host, self.port, backlog=4096
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def drain(self) -> None:
        """Returns when nothing runs any more, or `shutdown_timeout_s` is over; every connection is
        closed in order then."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.options.shutdown_timeout_s):
                while self.running or self.waiting:  # noqa: ASYNC110  (the clock sets no event)
                    await asyncio.sleep(POLL_S)
        if self._server:
            self._server.close()
        for connection in list(self.connections):
            connection.close()
        while self.connections:  # noqa: ASYNC110  (what was written is on its way)
            await asyncio.sleep(POLL_S)

    async def stop(self) -> None:
        """Stops listening and drops every connection, as a killed engine would."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._server:
            self._server.close()
            self._server = None
        for connection in list(self.connections):
            connection.reset()
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    # -- faults

    def wedge(self, wedged: bool = True) -> None:
        """The engine core hangs: requests are taken, `/health` is good, nothing comes, and the
        metrics, which the core's steps feed, stand still."""
        self._frozen_metrics = self.metrics() if wedged else None

    def arm(self, fault: Fault | None) -> None:
        """Makes the coming generation requests (`fault.times` of them) misbehave; None disarms."""
        self._fault, self._fault_left = fault, fault.times if fault else None

    def take_fault(self) -> Fault | None:
        if self._fault is None or self._fault_left == 0:
            return None
        if self._fault_left is not None:
            self._fault_left -= 1
        return self._fault

    # -- the step clock

    @property
    def num_running(self) -> int:
        return sum(not choice.done for call in self.running for choice in call.choices)

    @property
    def num_waiting(self) -> int:
        return sum(len(call.choices) for call in self.waiting)

    def submit(self, call: Call) -> None:
        limit = self.options.max_num_queued_reqs
        if limit is not None and len(self.running) + len(self.waiting) >= limit:
            self.counters.rejected += 1
            raise ApiError(
                503,
                "The engine is currently busy and cannot accept new requests. "
                "Please try again later or on a different instance.",
                "Service Unavailable",
            )
        self.counters.prompt_tokens += len(call.prompt_ids)
        self.waiting.append(call)
        call.start()
        self._admit()
        if self._timer is None:
            self._tick_at(asyncio.get_running_loop().time() + self.options.prefill_ms / 1000)

    def _admit(self) -> None:
        now = asyncio.get_running_loop().time()
        num_running = self.num_running
        while self.waiting:
            size = len(self.waiting[0].choices)
            if num_running and num_running + size > self.options.max_num_seqs:
                return
            call = self.waiting.popleft()
            call.ready_at = now + self.options.prefill_ms / 1000
            self.running.append(call)
            num_running += size

    def _tick_at(self, when: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(when, self._tick, when)

    def _tick(self, when: float) -> None:
        now = asyncio.get_running_loop().time()
        if self._frozen_metrics is None:
            for call in list(self.running):
                if call.ready_at <= now + 1e-4:
                    call.step()
            self._admit()
        self._timer = None
        if self.running:
            self._tick_at(max(when + self.options.step_ms / 1000, now))

    def end(self, call: Call, how: Literal["finished", "aborted", "failed"]) -> None:
        if call in self.running:
            self.running.remove(call)
        elif call in self.waiting:
            self.waiting.remove(call)
        call.connection.call = None
        counters = self.counters
        setattr(counters, how, getattr(counters, how) + 1)
        if how != "finished":
            counters.by_reason["abort" if how == "aborted" else "error"] += 1
            return
        for choice in call.choices:
            reason = choice.finish_reason
            counters.by_reason[reason] = counters.by_reason.get(reason, 0) + 1

    # -- routes

    def handle(self, connection: Connection, method: str, path: str, data: bytes) -> None:
        """Answers one request, now or over the coming steps."""
        try:
            self._route(connection, method, path, data)
        except ApiError as error:
            connection.reply(error.status, dumps(error.body).encode())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            body = ApiError(400, f"1 validation error:\n  {error}", "Bad Request", "body").body
            connection.reply(400, dumps(body).encode())

    def _route(self, connection: Connection, method: str, path: str, data: bytes) -> None:
        if (method, path) in _GENERATES:
            self._generate(connection, path, data)
        elif (method, path) == ("GET", "/health"):
            connection.reply(200, b"")
        elif (method, path) == ("GET", "/metrics"):
            connection.reply(200, self.metrics().encode(), "text/plain; version=0.0.4")
        elif (method, path) == ("GET", "/v1/models"):
            connection.reply(200, dumps(self.models()).encode())
        elif (method, path) == ("GET", "/version"):
            connection.reply(200, b'{"version":"0.32.0+standin"}')
        elif (method, path) == ("POST", "/tokenize"):
            connection.reply(200, dumps(self.tokenize(self._body(data))).encode())
        elif (method, path) == ("POST", "/detokenize"):
            body = self._body(data)
            connection.reply(200, dumps({"prompt": decode(body["tokens"])}).encode())
        elif (method, path) == ("GET", "/stand_in/state"):
            connection.reply(200, dumps(self.state()).encode())
        elif (method, path) == ("POST", "/stand_in/fault"):
            value = json.loads(data or b"null")
            self.arm(Fault(**value) if value else None)
            connection.reply(200, b"{}")
        else:
            raise ApiError(404, "Not Found", "Not Found")

    def _body(self, data: bytes) -> Json:
        body = json.loads(data)
        if not isinstance(body, dict):
            raise ValueError("Input should be a valid dictionary")
        if body.get("model") not in (None, "", self.options.model):
            raise ApiError(
                404,
                f"The model `{body['model']}` does not exist. Valid aliases: {self.options.model}.",
                "NotFoundError",
                "model",
            )
        return body

    def _generate(self, connection: Connection, path: str, data: bytes) -> None:
        self.counters.num_requests += 1
        record: Json = {"path": path, "headers": connection.headers, "body": None}
        self.requests.append(record)
        body = record["body"] = self._body(data)
        if self.draining:
            raise ApiError(500, "cannot schedule new futures after shutdown", "InternalServerError")
        call = Call(self, connection, path == "/v1/chat/completions", body)
        fault = call.fault
        if fault and fault.kind == "status":
            self.counters.failed += 1
            kind = "InternalServerError" if fault.status == 500 else HTTPStatus(fault.status).phrase
            raise ApiError(fault.status, "stand-in fault", kind)
        if fault and fault.kind == "content_type":
            self.counters.failed += 1
            connection.reply(200, b"<html><body>It works!</body></html>", "text/html")
            return
        if fault and fault.kind == "never":
            call.fault = Fault("stall", 0)
            call.stream = False
        connection.call = call
        try:
            self.submit(call)
        except ApiError:
            connection.call = None
            raise

    def models(self) -> Json:
        options = self.options
        card = {"id": options.model, "object": "model", "created": 0, "owned_by": "vllm"}
        card |= {"root": options.model, "parent": None, "max_model_len": options.max_model_len}
        return {"object": "list", "data": [card | {"permission": []}]}

    def tokenize(self, body: Json) -> Json:
        if "messages" in body:
            ids = encode(render(body["messages"], body.get("add_generation_prompt", True)))
        else:
            ids = [BOS] * body.get("add_special_tokens", True) + encode(body["prompt"])
        texts = [decode((i,)) for i in ids] if body.get("return_token_strs") else None
        reply: Json = {"count": len(ids), "max_model_len": self.options.max_model_len}
        return reply | {"tokens": ids, "token_strs": texts}

    def _kv_usage(self) -> float:
        """A share per sequence, which grows while its prompt is read, as in prefill by chunks."""
        now, prefill_s = asyncio.get_running_loop().time(), self.options.prefill_ms / 1000
        left = [max(0.0, call.ready_at - now) for call in self.running]
        missing = sum(left_s / prefill_s for left_s in left if left_s)
        return max(0.0, self.num_running - missing) / self.options.max_num_seqs

    def metrics(self) -> str:
        if self._frozen_metrics is not None:
            return self._frozen_metrics
        labels = f'engine="0",model_name="{self.options.model}"'
        counters = self.counters
        values: list[tuple[str, str, str, float]] = [
            ("gauge", "num_requests_running", "", self.num_running),
            ("gauge", "num_requests_waiting", "", self.num_waiting),
            ("gauge", "kv_cache_usage_perc", "", self._kv_usage()),
            ("counter", "num_preemptions_total", "", 0),
            ("counter", "prompt_tokens_total", "", counters.prompt_tokens),
            ("counter", "generation_tokens_total", "", self.generation_tokens),
            *(
                ("counter", "request_success_total", f',finished_reason="{reason}"', count)
                for reason, count in counters.by_reason.items()
            ),
        ]
        lines, seen = [], set()
        for kind, name, extra, value in values:
            if name not in seen:
                seen.add(name)
                lines.append(f"# TYPE vllm:{name.removesuffix('_total')} {kind}")
            lines.append(f"vllm:{name}{{{labels}{extra}}} {float(value)}")
        return "\n".join(lines) + "\n"

    def state(self) -> Json:
        return {
            "running": self.num_running,
            "waiting": self.num_waiting,
            "connections": len(self.connections),
            "generation_tokens": self.generation_tokens,
            **dataclasses.asdict(self.counters),
            "requests": list(self.requests),
        }


_GENERATES = {("POST", "/v1/chat/completions"), ("POST", "/v1/completions")}

# --- HTTP ---------------------------------------------------------------------------------------


class Connection(asyncio.Protocol):
    """One client connection: parses requests, frames replies. No pipelining."""

    transport: asyncio.Transport

    def __init__(self, engine: StandInEngine):
        self.engine = engine
        self.call: Call | None = None
        self.fragment = 0
        self.headers: dict[str, str] = {}
        self._parser = httptools.HttpRequestParser(self)
        self._path = ""
        self._body = bytearray()
        self._keep_alive = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.engine.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.engine.connections.discard(self)
        if self.call:
            self.engine.end(self.call, "aborted")

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.reply(400, b"Invalid HTTP request received.", "text/plain")
            self.close()

    def on_url(self, url: bytes) -> None:
        self._path += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        path, body = self._path.partition("?")[0], bytes(self._body)
        self._keep_alive = self._parser.should_keep_alive()
        self._path, self._body, self.fragment = "", bytearray(), 0
        if method == "POST" and self.call is not None:
            self.close()
            return
        self.engine.handle(self, method, path, body)

    def on_message_begin(self) -> None:
        self.headers = {}

    def request_id(self) -> str:
        return self.headers.get("x-request-id") or uuid.uuid4().hex

    # -- replies

    def _head(self, status: int, content_type: str, framing: str) -> bytes:
        return (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ndate: {formatdate(usegmt=True)}\r\n"
            f"server: uvicorn\r\ncontent-type: {content_type}\r\n{framing}\r\n\r\n"
        ).encode("latin-1")

    def reply(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        head = self._head(status, content_type, f"content-length: {len(body)}")
        self.transport.write(head + body)
        if not self._keep_alive:
            self.close()

    def begin(self, status: int, content_type: str) -> None:
        self.transport.write(self._head(status, content_type, "transfer-encoding: chunked"))

    def send_text(self, text: str) -> None:
        data = text.encode()
        if not self.fragment:
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            return
        for at in range(0, len(data), self.fragment):
            part = data[at : at + self.fragment]
            self.transport.write(b"%x\r\n%b\r\n" % (len(part), part))

    def finish(self) -> None:
        self.transport.write(b"0\r\n\r\n")
        if not self._keep_alive:
            self.close()

    def close(self) -> None:
        self.transport.close()

    def reset(self) -> None:
        """Ends the connection with an RST, as a killed process's kernel does with data unread."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                linger = struct.pack("ii", 1, 0)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()


# --- command line -------------------------------------------------------------------------------


def parse_fault(text: str) -> Fault:
    """`kind[:key=number,…]`, such as `reset:after=5,times=1`."""
    kind, _, rest = text.partition(":")
    values = dict(pair.split("=", 1) for pair in rest.split(",") if pair)
    return Fault(kind, **{key: int(value) for key, value in values.items()})  # type: ignore[arg-type]


_OPTION_TYPES: dict[str, Callable[[str], Any]] = {"fault": parse_fault, "max_num_queued_reqs": int}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.stand_in", description=__doc__.split("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100)
    for option in dataclasses.fields(Options):
        value = getattr(Options(), option.name)
        kind = _OPTION_TYPES.get(option.name, type(value))
        parser.add_argument("--" + option.name.replace("_", "-"), type=kind, default=value)
    values = vars(parser.parse_args(argv))
    host, port = values.pop("host"), values.pop("port")
    engine = StandInEngine(Options(**values), host, port)

    async def serve() -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        async with engine:
            print(f"stand-in engine on {engine.url}", flush=True)
            await stopped.wait()
            if engine.options.shutdown_timeout_s:
                await engine.drain()

    try:
        import uvloop
    except ImportError:
        asyncio.run(serve())
    else:
        uvloop.run(serve())


if __name__ == "__main__":
    main()
