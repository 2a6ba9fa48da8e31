"""Where the engines' URLs come from: files that change, names that resolve or don't."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

import pytest

from serve.commands import run_loop
from serve.discovery import (
    DnsSource,
    FileSource,
    Source,
    StaticSource,
    addresses,
    engine_url,
    make_source,
)
from serve.settings import RouterSettings, SettingsError
from tests.support import eventually

A, B = "http://10.0.0.1:8000", "http://10.0.0.2:8000"


@contextlib.asynccontextmanager
async def watched(source: Source) -> AsyncIterator[list[Sequence[str]]]:
    """The sets that a source reports, as they come."""
    sets: list[Sequence[str]] = []
    task = asyncio.create_task(source.watch(sets.append))
    try:
        yield sets
        assert not task.done() or task.exception() is None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "give --engine-url, --engine-dns or --engine-file"),
        ({"engine_urls": [A], "engine_dns": A}, "`router.engine_urls` and `router.engine_dns`"),
        ({"engine_dns": A, "engine_file": "f"}, "`router.engine_dns` and `router.engine_file`"),
        ({"engine_urls": ["10.0.0.1:8000"]}, "write it as http://host:port"),
        ({"engine_urls": ["http://h:port"]}, "write it as http://host:port"),
        ({"engine_urls": [f"{A} {B}"]}, "write it as http://host:port"),
        ({"engine_dns": "https://engines:8000"}, "use http://name:port"),
        ({"engine_dns": "engines"}, "write it as http://host:port"),
    ],
)
def test_there_must_be_exactly_one_source_that_makes_sense(
    settings: dict[str, object], words: str
) -> None:
    with pytest.raises(SettingsError) as failure:
        make_source(RouterSettings(**settings))  # type: ignore[arg-type]
    assert words in str(failure.value)


def test_urls_lose_their_last_slash_and_their_doubles() -> None:
    assert engine_url(f"{A}/") == A
    assert StaticSource([A, f"{A}/", B]).initial() == [A, B]
    assert engine_url("https://[::1]:8000/base/") == "https://[::1]:8000/base"


def test_a_file_has_one_url_a_line_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "engines"
    path.write_text(f"# ours\n{A}  # the first\n\n  {B}/\n{A}\n")
    assert FileSource(path).initial() == [A, B]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{A}\nnonsense\n", "engines, line 2: `nonsense` is not the URL of a server"),
        ("# nobody\n", "names no engine"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_wrong_at_the_start_is_told(
    tmp_path: Path, text: str | None, words: str
) -> None:
    if text is not None:
        (tmp_path / "engines").write_text(text)
    with pytest.raises(SettingsError) as failure:
        FileSource(tmp_path / "engines").initial()
    assert words in str(failure.value)


async def test_a_changed_file_is_taken_up_and_a_broken_one_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Reported once; the next good one counts again."""
    path = tmp_path / "engines"
    path.write_text(A)
    with caplog.at_level(logging.ERROR):
        async with watched(FileSource(path, interval_s=0.01)) as sets:
            await eventually(lambda: sets == [[A]])
            path.write_text("nonsense")
            await eventually(lambda: "nonsense" in caplog.text)
            path.unlink()
            await eventually(lambda: "No such file" in caplog.text)
            assert sets == [[A]]
            path.write_text(B)
            await eventually(lambda: sets == [[A], [B]])
    assert caplog.text.count("nonsense") == 1


async def test_a_swapped_link_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes updates a mounted ConfigMap: `..data` points to another directory."""
    for name, url in (("one", A), ("two", B)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "engines").write_text(url)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "engines").symlink_to("..data/engines")
    async with watched(FileSource(tmp_path / "engines", interval_s=0.01)) as sets:
        await eventually(lambda: sets == [[A]])
        (tmp_path / "..new").symlink_to("two")
        os.replace(tmp_path / "..new", tmp_path / "..data")
        await eventually(lambda: sets == [[A], [B]])


class Names:
    """A resolver with the answers that a test gives it."""

    def __init__(self) -> None:
        self.found: list[str] | OSError = []
        self.num_calls = 0

    async def __call__(self, name: str, port: int) -> Iterable[str]:
        self.num_calls += 1
        if isinstance(self.found, OSError):
            raise self.found
        return self.found


async def test_all_addresses_of_a_name_are_engines() -> None:
    """Sorted, so that order says nothing; IPv6 in brackets; resolved again and again."""
    names = Names()
    names.found = ["10.0.0.2", "fd00::1", "10.0.0.1", "10.0.0.1"]
    source = DnsSource("http://engines:8000", interval_s=0.01, resolve=names)
    async with watched(source) as sets:
        await eventually(lambda: len(sets) > 1)
        assert sets[0] == sets[1] == [A, B, "http://[fd00::1]:8000"]
        names.found = ["10.0.0.1"]
        await eventually(lambda: sets[-1] == [A])


@pytest.mark.parametrize(
    ("url", "asked", "engine"),
    [
        ("http://engines", ("engines", 80), "http://10.0.0.1:80"),
        ("http://engines.ns.svc.:8000/", ("engines.ns.svc.", 8000), A),
        ("http://engines:8000/base/", ("engines", 8000), f"{A}/base"),
    ],
)
async def test_names_may_be_absolute_and_go_without_a_port(
    url: str, asked: tuple[str, int], engine: str
) -> None:
    """A dot at the end keeps the resolver from trying search domains."""

    async def resolve(*name_and_port: object) -> list[str]:
        assert name_and_port == asked
        return ["10.0.0.1"]

    async with watched(DnsSource(url, resolve=resolve)) as sets:
        await eventually(lambda: sets == [[engine]])


@pytest.mark.parametrize("answer", [OSError("no such name"), []])
async def test_a_name_that_fails_keeps_its_engines_for_a_while(
    answer: list[str] | OSError,
) -> None:
    names = Names()
    names.found = ["10.0.0.1"]
    for hold_s, kept in ((60.0, True), (0.0, False)):
        names.found = ["10.0.0.1"]
        source = DnsSource("http://engines:8000", interval_s=0.01, hold_s=hold_s, resolve=names)
        async with watched(source) as sets:
            await eventually(lambda sets=sets: bool(sets))
            names.found = answer
            before = names.num_calls
            await eventually(lambda before=before: names.num_calls > before + 3)
            assert (sets[-1] == [A]) is kept


async def test_real_names_are_resolved() -> None:
    assert "127.0.0.1" in await addresses("localhost", 80)
    with pytest.raises(OSError, match=r".+"):
        await addresses("no-such-name.invalid", 80)


def test_a_silent_name_server_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop closes while the system still waits for an answer, which then finds nobody."""
    asked, silence = threading.Event(), threading.Event()

    def look_up(*_: object, **__: object) -> None:
        asked.set()
        silence.wait()
        raise OSError("timed out")

    async def ask_and_leave() -> None:
        task = asyncio.create_task(addresses("engines", 8000))
        await eventually(asked.is_set)
        task.cancel()
        await asyncio.wait({task})

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    run_loop(ask_and_leave())
    (resolver,) = [it for it in threading.enumerate() if it.name == "resolver"]
    silence.set()
    resolver.join()
