"""Where prompts come from: a file, reasoning-gym's procedural tasks, or words of a given number.

A task can be checked where its source knows the answer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import msgspec

from benchmarks.loadtest.lines import read_lines
from benchmarks.loadtest.spread import Number, draw
from serve.answer import AnswerForm, extract_answer
from serve.equivalence import same_answer
from serve.settings import SettingsError

Check = Callable[[str], bool]
Source = Callable[[Random, int | None], "Task"]
"""Of randomness and, for a trace, a number of tokens."""

SHIPPED = Path(__file__).resolve().parent.parent / "workloads"
WORDS_PER_TOKEN = 0.75
"""Of English prose with Qwen's tokenizer, about. The report shows the tokens that were counted."""


@dataclass(frozen=True, slots=True)
class Task:
    """One user turn. `check` tells whether a reply's content has the right answer."""

    prompt: str
    check: Check | None = None


class _Source(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="from", forbid_unknown_fields=True
):
    pass


class FromFile(_Source, frozen=True, tag="file"):
    """A JSON line for each task: `prompt`, and `answer` where it can be checked."""

    path: str
    answer_form: AnswerForm = "boxed"
    sha256: str = ""
    """Of the file, put in when it is read: two tests that say the same asked the same."""


class FromGym(_Source, frozen=True, tag="reasoning-gym"):
    """Tasks that reasoning-gym makes and checks; of each `size`, from `seed`."""

    tasks: list[str]
    size: int = 100
    seed: int = 1
    config: dict[str, Any] = {}
    answer_form: AnswerForm = "boxed"


class FromWords(_Source, frozen=True, tag="words"):
    """`tokens` (about) of text that is different each time and in each test, so that none of it is
    in a prefix cache; then `ask`."""

    tokens: Number
    ask: str = "Say in one sentence what this is about."


Prompts = FromFile | FromGym | FromWords


def source_of(prompts: Prompts, folder: Path, nonce: str) -> Source:
    """`folder`: where files are; `nonce`: what makes a test's texts its own. Raises `SettingsError`
    where it can't give any."""
    match prompts:
        case FromFile():
            return _from_file(prompts, folder)
        case FromGym():
            return _from_gym(prompts)
        case FromWords():
            return _from_words(prompts, nonce)


class _Line(msgspec.Struct):
    prompt: str
    answer: str | None = None


def _from_file(prompts: FromFile, folder: Path) -> Source:
    path, form = folder / prompts.path, '{"prompt": "…", "answer": "…"}'
    tasks = [
        Task(line.prompt, _same_as(line.answer, prompts.answer_form))
        for line in read_lines(path, _Line, form)
    ]
    if not tasks:
        raise SettingsError(f"{path}: no prompts in it")
    return lambda rng, _: rng.choice(tasks)


def _same_as(answer: str | None, form: AnswerForm) -> Check | None:
    if answer is None:
        return None

    def check(content: str) -> bool:
        found = extract_answer(content, form)
        return found is not None and same_answer(found, answer, form)

    return check


def _from_gym(prompts: FromGym) -> Source:
    create = _gym()
    tasks = []
    for name in prompts.tasks:
        try:
            dataset = create(name, size=prompts.size, seed=prompts.seed, **prompts.config)
        except (ValueError, TypeError) as error:
            raise SettingsError(f"reasoning-gym, task {name!r}: {error}") from error
        tasks += [_gym_task(dataset, entry, prompts.answer_form) for entry in dataset]
    return lambda rng, _: rng.choice(tasks)


def _gym() -> Callable[..., Any]:
    """reasoning-gym's maker of data sets. Raises `SettingsError` where it isn't installed."""
    try:
        import_module("pycosat")
    except ImportError:
        # A C extension without wheels that only zebra_puzzles uses, but every import asks for.
        sys.modules["pycosat"] = ModuleType("pycosat")
    try:
        from reasoning_gym import create_dataset
    except ImportError as error:
        raise SettingsError(
            f"{error.name} is not installed; pip install 'r1-serve[gym]', or take a workload"
            " whose prompts come from elsewhere"
        ) from None
    create: Callable[..., Any] = create_dataset
    return create


def _gym_task(dataset: Any, entry: Any, form: AnswerForm) -> Task:
    def check(content: str) -> bool:
        found = extract_answer(content, form)
        return found is not None and dataset.score_answer(found, entry) >= 1

    return Task(entry["question"], check)


def _from_words(prompts: FromWords, nonce: str) -> Source:
    def ask(rng: Random, num_tokens: int | None) -> Task:
        num = num_tokens or round(draw(prompts.tokens, rng))
        num_words = max(0, round(num * WORDS_PER_TOKEN) - len(prompts.ask.split()))
        text = _prose(Random(f"{rng.getrandbits(64)}/{nonce}"), num_words)
        return Task(f"{text}\n\n{prompts.ask}".strip())

    return ask


@cache
def _vocabulary() -> list[str]:
    return (SHIPPED / "words.txt").read_text().split()


def _prose(rng: Random, num_words: int) -> str:
    """Sentences of 6 to 16 words; no two texts begin alike, so no prefix is shared by accident."""
    words, vocabulary, text = 0, _vocabulary(), []
    while words < num_words:
        length = min(num_words - words, rng.randint(6, 16))
        sentence = " ".join(rng.choices(vocabulary, k=length))
        text.append(sentence.capitalize() + ".")
        words += length
    return " ".join(text)
