"""The chat as a person at a terminal has it: the program itself in a pseudo-terminal.

Over the real engine; the stand-in takes its place where a reply must take its time.
"""

from __future__ import annotations

import asyncio
import json
import re
import stat
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from benchmarks.stand_in import Options, StandInEngine
from serve.engine_process import free_port
from tests.conftest import ROOT, RunningEngine
from tests.docs.pages import blocks
from tests.docs.shapes import unlike
from tests.support import RunningRouter, eventually, running_router
from tests.terminal.terminal import (
    CTRL_C,
    CTRL_D,
    CTRL_R,
    ENTER,
    ESCAPE,
    TAB,
    UP,
    Terminal,
    chatting,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

SUM = "What is 47 + 85?"
CHAIN = "What is 63 - 18 + 57 - 40 + 22 - 35 + 71?"
READY = r"preset \w+ .*/help"
"""The toolbar."""
RATE = re.compile(r" · [\d,]+ tokens/s")
"""Not said of a reply that a busy machine brings in one go."""
SLOW = Options(step_ms=10, think_tokens=20, answer_tokens=5000, keep_bodies=64)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def router(engine: RunningEngine) -> AsyncIterator[RunningRouter]:
    async with running_router(engine.url) as router:
        yield router


@pytest_asyncio.fixture(loop_scope="module")
async def slow_engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(SLOW) as engine:
        yield engine


@pytest_asyncio.fixture(loop_scope="module")
async def slow_router(slow_engine: StandInEngine) -> AsyncIterator[RunningRouter]:
    async with running_router(slow_engine.url) as router:
        yield router


async def visit(
    person: Callable[[Terminal], None], home: Path, url: str, *arguments: str, **more: Any
) -> None:
    """What a person does, beside the router that runs in this loop."""

    def run() -> None:
        with chatting(home, url, *arguments, **more) as terminal:
            person(terminal)

    await asyncio.to_thread(run)


def questions(engine: StandInEngine) -> list[list[str]]:
    """What each chat that came to the engine was asked, with what was said before; the router's own
    look at it comes first."""
    bodies = [it["body"] for it in engine.requests if it["path"] == "/v1/chat/completions"]
    return [[str(it["content"]) for it in body["messages"]] for body in bodies[1:]]


@pytest.mark.engine
async def test_a_question_is_thought_about_and_answered(
    router: RunningRouter, tmp_path: Path
) -> None:
    """Thinking is dimmed, the answer is not; then the exact figures. Presets change under way,
    with the nearest name for a wrong one, and Tab for the lazy."""

    def person(terminal: Terminal) -> None:
        terminal.wait_for(READY)
        terminal.say(SUM)
        shown = terminal.wait_for(r"preset chat\n")
        assert re.search(r"tens: .*\(thought for [\d.]+ s\)\n\n47\+85=132\. .*132", shown, re.S)
        assert re.search(r"thinking \d+ tokens, answer \d+ · first token [\d.]+ s", shown)
        assert "\x1b[2m47" in terminal.raw or "\x1b[2m4" in terminal.raw
        terminal.say("/preset mth")
        terminal.wait_for("did you mean `math`")
        terminal.wait_for(READY)
        terminal.type("/preset mat", TAB)
        terminal.wait_for("math")
        terminal.type(ENTER)
        terminal.wait_for("preset: math")
        terminal.wait_for("preset math · Enter sends")
        terminal.say("And 12 + 9?")
        terminal.wait_for(r"preset math\n")
        terminal.type(CTRL_D)
        assert terminal.ended() == 0

    await visit(person, tmp_path, router.url)


@pytest.mark.engine
async def test_a_session_is_as_the_page_shows_it(router: RunningRouter, tmp_path: Path) -> None:
    """docs/chat.md, but for numbers and rates."""
    (page,) = [it for it in blocks(ROOT / "docs" / "chat.md") if it.text.startswith("$ r1-serve")]
    typed = re.findall(r"^> (.*)", page.text, re.M)

    def person(terminal: Terminal) -> None:
        for line in typed:
            terminal.wait_for(READY)
            terminal.say(line)
        assert terminal.ended() == 0
        session = page.text.partition("\n")[2]
        assert unlike(RATE.sub("", session), RATE.sub("", terminal.shown)) is None

    await visit(person, tmp_path, router.url)


@pytest.mark.engine
async def test_a_vote_is_tallied_and_ctrl_c_ends_its_samples(
    router: RunningRouter, tmp_path: Path
) -> None:
    """Sixty-four votes at a high temperature take a while."""

    def person(terminal: Terminal) -> None:
        terminal.wait_for(READY)
        terminal.say(CHAIN)
        shown = terminal.wait_for(r"preset vote · \d of at most 8 votes: 120 ×\d.*\n")
        assert "boxed{120}" in shown
        terminal.say("/set temperature 2")
        terminal.say("/votes 64")
        terminal.wait_for("votes: 64")
        terminal.say(CHAIN)
        terminal.wait_for("of at most 64 votes")
        terminal.type(CTRL_C)
        terminal.wait_for(r"Stopped\. There was no answer yet")
        terminal.say("/quit")
        assert terminal.ended() == 0

    await visit(person, tmp_path, router.url, "--preset", "vote")
    await eventually(lambda: router.router.gate.num_in_flight == 0)


async def test_a_stopped_answer_is_kept_as_far_as_it_came(
    slow_engine: StandInEngine, slow_router: RunningRouter, tmp_path: Path
) -> None:
    """The work on the engine ends with Ctrl-C; `/undo` takes the question back with its answer.
    What is typed meanwhile isn't shown between the lines of the reply."""

    def person(terminal: Terminal) -> None:
        terminal.wait_for(READY)
        terminal.say("first")
        terminal.wait_for(r"thought for [\d.]+ s\)\n\n *\w+ \w+ ")
        terminal.type("zzz")
        terminal.wait_for(r"\w+ \w+ ")
        terminal.type(CTRL_C)
        shown = terminal.wait_for("kept as far as it came")
        assert "zzz" not in shown
        terminal.wait_for(READY)
        terminal.say("second")
        terminal.wait_for(r"thought for")
        terminal.type(CTRL_C)
        terminal.wait_for("Stopped")
        for command, answer in (("/undo", "Taken back: second"), ("/undo", "Taken back: first")):
            terminal.say(command)
            terminal.wait_for(answer)
        terminal.say("third")
        terminal.wait_for(r"thought for")
        terminal.type(CTRL_C)
        terminal.wait_for("Stopped")
        terminal.type(CTRL_D)
        assert terminal.ended() == 0

    await visit(person, tmp_path, slow_router.url)
    await eventually(lambda: slow_engine.counters.aborted == 3)
    first, second, third = questions(slow_engine)
    assert first == ["first"]
    assert (second[0], second[2]) == ("first", "second")
    assert second[1].strip()
    assert third == ["third"]


async def test_questions_of_several_lines(
    slow_engine: StandInEngine, slow_router: RunningRouter, tmp_path: Path
) -> None:
    """By Esc and Enter, after a backslash, pasted, and in Chinese; Ctrl-C clears a line."""

    def person(terminal: Terminal) -> None:
        terminal.wait_for(READY)
        terminal.type("to be cleared", CTRL_C, "one", ESCAPE, ENTER, "two\\", ENTER)
        terminal.type("\x1b[200~  三\n\n四？\x1b[201~", ENTER)
        terminal.wait_for("thought for")
        terminal.type(CTRL_C)
        terminal.wait_for("Stopped")
        terminal.type(CTRL_D)
        assert terminal.ended() == 0

    await visit(person, tmp_path, slow_router.url, columns=30)
    assert questions(slow_engine) == [["one\ntwo\n  三\n\n四？"]]


async def test_questions_are_there_in_the_next_session(
    slow_engine: StandInEngine, slow_router: RunningRouter, tmp_path: Path
) -> None:
    """With the arrow keys and with Ctrl-R, from a file that is the user's alone. `--no-history`
    keeps none."""

    def asking(*questions: str) -> Callable[[Terminal], None]:
        def person(terminal: Terminal) -> None:
            for keys in questions:
                terminal.wait_for(READY)
                terminal.type(keys, ENTER)
                terminal.wait_for("thought for")
                terminal.type(CTRL_C)
                terminal.wait_for("Stopped")
            terminal.type(CTRL_D)
            assert terminal.ended() == 0

        return person

    await visit(asking("red fox", "owl"), tmp_path, slow_router.url)
    path = tmp_path / "state" / "r1-serve" / "chat_history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await visit(asking("grey cat"), tmp_path, slow_router.url, "--no-history")
    await visit(asking(UP, f"{CTRL_R}fox{ENTER}"), tmp_path, slow_router.url)
    asked = [it[-1] for it in questions(slow_engine)]
    assert asked == ["red fox", "owl", "grey cat", "owl", "red fox"]
    assert "grey" not in path.read_text()


async def test_who_is_put_off_comes_back_by_itself(
    slow_engine: StandInEngine, tmp_path: Path
) -> None:
    """The server is full until the one before leaves; colours are left out where they aren't
    wanted."""

    def person(terminal: Terminal) -> None:
        terminal.wait_for(READY)
        terminal.say("let me in")
        terminal.wait_for("The server is full; it keeps a place for this question")
        terminal.wait_for(r"next try in \d+ s · Ctrl-C gives up")
        leave.set()
        terminal.wait_for("thought for")
        terminal.type(CTRL_C)
        terminal.wait_for("Stopped")
        terminal.type(CTRL_D)
        assert terminal.ended() == 0
        assert re.search(r"\x1b\[(2|3\d|9\d|[34]8;[\d;]*)m", terminal.raw) is None

    leave = threading.Event()
    limits = {"max_in_flight": 1, "max_queued": 0}
    async with running_router(slow_engine.url, **limits) as router:
        before = asyncio.create_task(router.stream("before"))
        await eventually(lambda: router.router.gate.num_in_flight == 1)
        visiting = asyncio.create_task(visit(person, tmp_path, router.url, NO_COLOR="1"))
        await asyncio.to_thread(leave.wait)
        before.cancel()
        await visiting


async def test_a_conversation_is_kept_in_a_file_and_goes_on_from_it(
    slow_engine: StandInEngine, slow_router: RunningRouter, tmp_path: Path
) -> None:
    def person(terminal: Terminal) -> None:
        terminal.wait_for(READY)
        terminal.say("/load none.json")
        terminal.wait_for("Can't read none.json: No such file")
        terminal.say(f"/load '{saved}'")
        terminal.wait_for("Loaded: Sums")
        terminal.say("and then?")
        terminal.wait_for("thought for")
        terminal.type(CTRL_C)
        terminal.wait_for("Stopped")
        terminal.say(f"/save {other}")
        terminal.wait_for("There is a .*other.json already")
        terminal.say(f"/save '{saved}'")
        terminal.wait_for("Saved in")
        terminal.type(CTRL_D)
        assert terminal.ended() == 0

    saved, other = tmp_path / "a file.json", tmp_path / "other.json"
    other.touch()
    messages = [
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "2", "reasoning_content": "One more.", "shown": 0},
    ]
    conversation = {"id": "1", "title": "Sums", "created": 1, "updated": 2, "messages": messages}
    saved.write_text(json.dumps({"r1_serve": 1, "conversations": [conversation]}))
    await visit(person, tmp_path, slow_router.url, columns=200)
    assert questions(slow_engine) == [["1+1", "2", "and then?"]]
    (kept,) = json.loads(saved.read_text())["conversations"]
    assert [it["role"] for it in kept["messages"]] == ["user", "assistant"] * 2
    assert kept["messages"][1]["reasoning_content"] == "One more."


async def test_what_can_not_be_begun_is_told_with_a_remedy(
    slow_router: RunningRouter, tmp_path: Path
) -> None:
    """No server, no such preset, no prompt-toolkit."""

    def saying(words: str, status: int) -> Callable[[Terminal], None]:
        def person(terminal: Terminal) -> None:
            terminal.wait_for(words)
            assert terminal.ended() == status

        return person

    nowhere = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    hidden = tmp_path / "prompt_toolkit" / "__init__.py"
    hidden.parent.mkdir()
    hidden.write_text("raise ModuleNotFoundError('prompt_toolkit')\n")
    without = str(tmp_path)
    await asyncio.gather(
        visit(saying("`r1-serve up` starts a server", 1), tmp_path, nowhere),
        visit(saying("did you mean `math`", 1), tmp_path, slow_router.url, "--preset", "maths"),
        visit(saying(r"pip install 'r1-serve\[chat\]'", 2), tmp_path, nowhere, PYTHONPATH=without),
    )
