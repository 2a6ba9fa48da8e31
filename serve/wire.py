"""What engines send, as far as the router reads it; all else in a chunk is skipped unparsed.

The forms are vLLM 0.32's (`vllm/entrypoints/openai/chat_completion/protocol.py`). They are made and
dropped for each token and can't form circles, so the garbage collector needn't know of them.
"""

from __future__ import annotations

import msgspec

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)
"""What reading an engine's JSON may raise: besides its own error, msgspec lets through those of
text that isn't UTF-8 and of nesting without end; token ids may not fit their array."""


class EngineDelta(msgspec.Struct, gc=False):
    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class EngineChoice(msgspec.Struct, gc=False):
    index: int
    delta: EngineDelta
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: dict[str, msgspec.Raw] | None = None
    token_ids: list[int] | None = None


class EngineUsage(msgspec.Struct, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: dict[str, int | None] | None = None


class EngineFault(msgspec.Struct, gc=False):
    message: str = "unknown error"
    type: str | None = None
    code: int | str | None = None


class EngineChunk(msgspec.Struct, gc=False):
    choices: list[EngineChoice] = []
    usage: EngineUsage | None = None
    error: EngineFault | None = None
    prompt_token_ids: list[int] | None = None


decode_chunk = msgspec.json.Decoder(EngineChunk).decode


class _TextChoice(msgspec.Struct, gc=False):
    index: int
    text: str = ""
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None


class _TextChunk(msgspec.Struct, gc=False):
    choices: list[_TextChoice] = []
    error: EngineFault | None = None


_decode_text_chunk = msgspec.json.Decoder(_TextChunk).decode


def decode_text_chunk(event: bytes) -> EngineChunk:
    """A plain completion's chunk in a chat's form, the text (tags and all) as `content`."""
    chunk = _decode_text_chunk(event)
    choices = [
        EngineChoice(
            choice.index,
            EngineDelta(content=choice.text),
            choice.finish_reason,
            choice.stop_reason,
            token_ids=choice.token_ids,
        )
        for choice in chunk.choices
    ]
    return EngineChunk(choices, error=chunk.error)
