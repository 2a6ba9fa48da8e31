"""All of `docs/examples/`."""

from __future__ import annotations

import asyncio
import os
import re

from tests.examples.support import DIFF, EXAMPLES, SCRIPTS, example

GIVEN: dict[str, tuple[object, ...]] = {
    "grade_homework.py": (EXAMPLES / "homework.jsonl", os.devnull),
    "table_report.py": (EXAMPLES / "sales.csv",),
}


async def test_each_says_how_it_is_used() -> None:
    helped = await asyncio.gather(*(example(name, "--help") for name in SCRIPTS))
    for name, done in zip(SCRIPTS, helped, strict=True):
        assert done.status == 0, done.err
        assert name in done.out


async def test_each_says_so_where_no_server_is() -> None:
    failed = await asyncio.gather(
        *(example(name, *GIVEN.get(name, ()), stdin=DIFF) for name in SCRIPTS)
    )
    for name, done in zip(SCRIPTS, failed, strict=True):
        assert done.status != 0, name
        assert re.search("connect", done.err, re.I), (name, done.err)
        assert "Traceback" not in done.err, name


def test_none_needs_more_than_a_clients_libraries() -> None:
    used = "".join(it.read_text() for it in EXAMPLES.glob("*.py"))
    assert not re.search(r"^\s*(?:import|from) (?:serve|benchmarks|tests)\b", used, re.M)


def test_the_page_lists_each() -> None:
    page = (EXAMPLES / "README.md").read_text()
    assert sorted(re.findall(r"^\| \[(\S+)\]\(\1\)", page, re.M)) == SCRIPTS
