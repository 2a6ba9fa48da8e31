"""The chat in a pipe: one question, its answer alone, and a status that tells."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from benchmarks.stand_in import Options, StandInEngine
from serve.sse import DONE_EVENT, encode
from tests.conftest import R1_SERVE, ROOT, RunningEngine
from tests.support import eventually, running_router
from tests.terminal.test_client import http, playing
from tests.test_recovery import scripted

FAST = Options(step_ms=0.2, prefill_ms=0, think_tokens=8, answer_tokens=4)


async def piped(url: str, *arguments: str, typed: str = "", **more: Any) -> tuple[int, str, str]:
    """Status, output and complaints of `r1-serve chat`."""
    process = await asyncio.create_subprocess_exec(
        *R1_SERVE,
        *("chat", "--url", url),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"R1_API_KEY": "", "LANG": "C.UTF-8"},
    )
    out, err = await process.communicate(typed.encode())
    return process.returncode or 0, out.decode(), err.decode()


@pytest.mark.engine
async def test_a_question_in_and_its_answer_out(engine: RunningEngine) -> None:
    """From a pipe or as an argument; thinking only where it is asked for, apart from the answer.
    No escape sequences anywhere."""
    async with running_router(engine.url) as router:
        plain, thinking, chinese = await asyncio.gather(
            piped(router.url, typed="What is 47 + 85?\n"),
            piped(router.url, "--thinking", "--preset", "math", "What is 47 + 85?"),
            piped(router.url, "47 + 85 等于多少？"),
        )
    assert plain == (0, "47+85=132. The answer is \\boxed{132}.\n", "")
    status, answer, told = thinking
    assert (status, answer.endswith("\\boxed{132}.\n")) == (0, True)
    assert told.startswith("47+85:")
    assert told.endswith("\n")
    assert "\x1b" not in told
    assert chinese[0] == 0
    assert "132" in chinese[1]


async def test_an_argument_comes_before_what_is_piped_in() -> None:
    """As with `… | r1-serve chat 'What is wrong here?'`."""
    async with StandInEngine(FAST) as engine, running_router(engine.url) as router:
        status, *_ = await piped(router.url, "What is this?", typed="line 1\nline 2\n")
        (request,) = list(engine.requests)[1:]
    assert status == 0
    assert request["body"]["messages"][0]["content"] == "What is this?\n\nline 1\nline 2"


async def test_the_status_tells_of_failure() -> None:
    """What is wrong goes to standard error, nothing to standard output."""
    async with StandInEngine(FAST) as engine, running_router(engine.url) as router:
        preset, nothing, nobody, silent = await asyncio.gather(
            piped(router.url, "--preset", "maths", "1+1"),
            piped(router.url, typed=" \n"),
            piped("http://127.0.0.1:9", "1+1"),
            piped(router.url, scripted(think="Hm.", answer="")),
        )
    assert (preset[0], nothing[0], nobody[0], silent[0]) == (1, 2, 1, 1)
    assert {it[1] for it in (preset, nothing, nobody, silent)} == {""}
    assert "did you mean `math`" in preset[2]
    assert "there is no question" in nothing[2]
    assert "nothing answers at http://127.0.0.1:9" in nobody[2]
    assert "said nothing after its thinking" in silent[2]


async def test_who_is_put_off_waits_and_says_so() -> None:
    replies = (
        http("429 x", b"", b"retry-after-ms: 30"),
        http("200 OK", encode(b'{"choices": [{"delta": {"content": "2"}}]}') + DONE_EVENT),
    )
    async with playing(*replies) as (url, requests):
        assert await piped(url, "1+1") == (
            0,
            "2\n",
            f"r1-serve: the server at {url} answers 429 to /v1/chat/completions; "
            "next try in 0.03 s.\n",
        )
    assert requests[0] == requests[1]


async def test_ctrl_c_gives_up() -> None:
    """And ends the work on the engine."""
    endless = Options(step_ms=1, think_tokens=20000)
    async with StandInEngine(endless) as engine, running_router(engine.url) as router:
        process = await asyncio.create_subprocess_exec(
            *R1_SERVE,
            "chat",
            "--url",
            router.url,
            "1+1",
            stdin=asyncio.subprocess.DEVNULL,
            cwd=ROOT,
        )
        await eventually(lambda: engine.generation_tokens > 9)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        await eventually(lambda: engine.counters.aborted == 1)


async def test_who_has_read_enough_may_leave() -> None:
    """`… | head -1`, after which the work on the engine ends as well."""
    endless = Options(step_ms=1, think_tokens=4, answer_tokens=20000)
    async with StandInEngine(endless) as engine, running_router(engine.url) as router:
        command = f"{' '.join(R1_SERVE)} chat --url {router.url} go </dev/null | head -c 9"
        shell = await asyncio.create_subprocess_shell(
            command,
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await shell.communicate()
        await eventually(lambda: engine.counters.aborted == 1)
    assert (len(out), err) == (9, b"")
