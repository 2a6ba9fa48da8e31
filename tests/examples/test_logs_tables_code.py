"""What the demo model can't do, and says so: its answer is told to be no use. The other way is over
scripted replies."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.examples.support import DIFF, EXAMPLES, LOG, example, script, scripted

SALES = EXAMPLES / "sales.csv"
DECLINES = "outside what I can do"
QUOTING = "The pool is too large: `remaining connection slots are reserved for superusers`."

# --- diagnose_log.py ----------------------------------------------------------------------------


@pytest.mark.engine
async def test_a_diagnosis_that_quotes_nothing_is_told_so(demo: str) -> None:
    """Thinking on stderr, the answer on stdout; not dimmed, since that is no terminal."""
    done = await example("diagnose_log.py", url=demo, stdin=LOG)
    assert done.status == 1
    assert DECLINES in done.out
    thinking, _, told = done.err.strip().rpartition("\n")
    assert told == "diagnose_log: this quotes nothing of the log; don't rely on it"
    assert thinking
    assert "\033" not in done.err


async def test_a_diagnosis_that_quotes_the_log_is_one() -> None:
    async with scripted() as (_, _, url):
        done = await example("diagnose_log.py", url=url, stdin=LOG + script(QUOTING, "Look."))
    assert done == (0, f"{QUOTING}\n", "Look.\n\n")


async def test_of_a_long_log_the_lines_that_matter_are_read() -> None:
    """The first and last lines, and the one error among 4,000 with what stands around it."""
    lines = [f"12:00:{it % 60:02} GET /item/{it} 200" for it in range(4000)]
    lines[1234] = "12:20:34 worker 7: ERROR disk quota exceeded"
    lines[-1] = script("It says: ERROR disk quota exceeded.")
    async with scripted() as (engine, _, url):
        done = await example(
            *("diagnose_log.py", "--tokens", 2000, "--note", "On a Monday."),
            url=url,
            stdin="\n".join(lines),
        )
        body = engine.requests[-1]["body"]
    assert done.status == 0, done.err
    text = body["messages"][0]["content"]
    read = text.splitlines()
    assert text.startswith("On a Monday.")
    assert {lines[0], *lines[1232:1237], lines[-1]} <= set(read)
    assert [it for it in read if it in lines] == [it for it in lines if it in read], "in order"
    left_out = sum(int(it[1:].split()[0]) for it in read if it.endswith("lines left out]"))
    assert left_out + sum(it in lines for it in read) == len(lines)
    assert 1000 < len(text) < 2500, "the stand-in's tokens are mostly characters"


async def test_no_answer_and_no_log_have_a_status() -> None:
    async with scripted() as (_, _, url):
        silent, empty = await asyncio.gather(
            *(example("diagnose_log.py", url=url, stdin=it) for it in (script(""), ""))
        )
    assert (silent.status, silent.out.strip()) == (2, "")
    assert "the model gave no answer" in silent.err
    assert empty.status == 2
    assert "no log came in" in empty.err


# --- table_report.py ----------------------------------------------------------------------------


@pytest.mark.engine
async def test_figures_stand_alone_where_the_model_writes_nothing(demo: str) -> None:
    done = await example("table_report.py", SALES, url=demo)
    assert done.status == 2
    assert done.err == "table_report: the model wrote nothing about the figures\n"
    assert DECLINES not in done.out
    assert "| revenue | 128,750 | 21,458.33 | 26,750 (June) | 17,250 (February) | 45.38 % |" in (
        done.out.splitlines()
    )


async def test_a_report_follows_its_figures() -> None:
    text = "# Sales\n\n1. Revenue was 128,750, and 26750 at its best. It rose by 45.38%."
    async with scripted() as (engine, _, url):
        done = await example("table_report.py", SALES, "--note", script(text), url=url)
        asked = engine.requests[-1]["body"]["messages"][0]["content"]
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("| figure |")
    assert done.out.endswith(f"\n\n{text}\n")
    assert "18,400" not in asked, "rows aren't sent"


async def test_numbers_that_are_not_figures_are_named() -> None:
    """Also those that were rounded. (What the note has may be said: here it has none.)"""
    text = "Revenue of 128,750 rose by 45% to 27,000; 122 were returned."
    async with scripted() as (_, _, url):
        note = re.sub(r"\d", lambda it: f"\\u00{ord(it[0]):x}", script(text))
        done = await example("table_report.py", SALES, "--note", note, url=url)
    assert done.status == 1
    assert done.out.endswith("> Not among the figures, so check: 45, 27,000\n")


async def test_tables_come_in_several_forms(tmp_path: Path) -> None:
    """Semicolons and a byte order mark; currencies, gaps, a column of words, a row that is too
    long."""
    table = tmp_path / "t.csv"
    table.write_text("\ufeffcity;rent;note\nUlm;€ 700;old\nBonn;900;new;x\nHof;;-\n", "utf-8")
    async with scripted() as (_, _, url):
        words = tmp_path / "words.csv"
        words.write_text("a,b\nx,y\n")
        done, refused = await asyncio.gather(
            *(example("table_report.py", it, url=url) for it in (table, words))
        )
    (rent,) = done.out.splitlines()[2:]
    assert rent == "| rent | 1,600 | 800 | 900 (Bonn) | 700 (Ulm) | 28.57 % |"
    assert refused.status == 2
    assert "no column of numbers" in refused.err


# --- review_code.py -----------------------------------------------------------------------------


def reviewed(*comments: dict[str, Any]) -> str:
    """A diff whose review is scripted, in an old line of it."""
    told = script(json.dumps({"comments": comments}))
    return DIFF.replace(" \n", f"     # {told}\n")


def comment(code: str, severity: str = "error") -> dict[str, Any]:
    return {"code": code, "severity": severity, "comment": "Divides by zero when empty."}


@pytest.mark.engine
async def test_a_schema_binds_what_follows_the_thinking(demo: str) -> None:
    """What the demo model puts into the form can be read, but quotes no new line, so nothing is
    reviewed."""
    done = await example("review_code.py", url=demo, stdin=DIFF)
    assert (done.status, done.out) == (2, "")
    assert re.fullmatch(r"review_code: shop/price.py: quotations of no new line: \d\n", done.err)


async def test_comments_are_lines_of_json_at_the_quoted_lines() -> None:
    quoted = "+        return self.total() / len(self.items)"
    async with scripted() as (engine, _, url):
        done = await example("review_code.py", url=url, stdin=reviewed(comment(quoted)))
        body = engine.requests[-1]["body"]
    assert (done.status, done.err) == (1, "")
    assert json.loads(done.out) == {
        "file": "shop/price.py",
        "line": 15,
        **comment(quoted.strip("+ ")),
    }
    assert "structured_outputs" in body or "response_format" in body


async def test_the_status_serves_a_hook() -> None:
    """A comment that quotes a line of before is dropped."""
    new, old = "return self.total() / len(self.items)", "self.items.append(item)"
    cases: list[tuple[list[dict[str, Any]], str, int]] = [
        ([], "note", 0),
        ([comment(new, "warning")], "error", 0),
        ([comment(new, "warning")], "warning", 1),
        ([comment(old)], "error", 2),
        ([comment(old), comment(new)], "error", 1),
    ]
    async with scripted() as (_, _, url):
        told = await asyncio.gather(
            *(
                example("review_code.py", "--fail-on", worst, url=url, stdin=reviewed(*comments))
                for comments, worst, _ in cases
            )
        )
    assert [it.status for it in told] == [status for *_, status in cases]
    assert [it.out.count('"file"') for it in told] == [0, 1, 1, 0, 1]


async def test_each_file_is_reviewed_and_one_that_fails_is_named() -> None:
    """A reply that is no JSON, a deleted file, and one that is fine."""
    broken = reviewed().replace("shop/price.py", "shop/cart.py").replace('{\\"comments', "oops")
    gone = "diff --git a/x b/x\n--- a/x\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
    fine = reviewed(comment("return self.total() / len(self.items)"))
    async with scripted() as (engine, _, url):
        done = await example("review_code.py", url=url, stdin=broken + gone + fine)
        asked = re.findall(r"Review this change to (\S+)", json.dumps(list(engine.requests)))
    assert asked == ["shop/cart.py", "shop/price.py"]
    assert done.status == 2
    assert "shop/cart.py: not reviewed" in done.err
    assert json.loads(done.out)["file"] == "shop/price.py"
    nothing = await example("review_code.py")
    assert nothing == (0, "", "")
