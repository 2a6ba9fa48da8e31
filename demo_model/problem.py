"""The problem type that every kind produces, and the rule that holds problems out."""

import zlib
from dataclasses import dataclass

from demo_model.arithmetic import Language

Key = tuple[str | int, ...]

HELD_OUT_SHARE = 10  # one key in ten


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its worked trace.

    `reply` is what follows `</think>`; `answer` is what its `\\boxed{}` holds, None for talk.
    `key` names the operands, so that a held-out problem's operands are never trained on.
    """

    kind: str
    language: Language
    question: str
    trace: str
    reply: str
    answer: str | None
    key: Key

    @property
    def completion(self) -> str:
        """What the model writes after the prompt's `<think>\\n`, without the end token."""
        return f"{self.trace}\n</think>\n\n{self.reply}"

    @property
    def held_out(self) -> bool:
        return is_held_out(self.key)


def pair_key(a: int, b: int) -> Key:
    """The key of a sum or difference: the unordered pair."""
    return ("sum", *sorted((a, b)))


def is_held_out(key: Key) -> bool:
    """True for a fixed tenth of all keys with an operand of two digits or more."""
    if not any(isinstance(part, int) and part >= 10 for part in key):
        return False
    return zlib.crc32(repr(key).encode()) % HELD_OUT_SHARE == 0
