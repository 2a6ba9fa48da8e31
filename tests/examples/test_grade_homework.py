from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.examples.support import EXAMPLES, example, script, scripted

SEVEN = {"question": script("\\boxed{7}"), "student_answer": "x = 7"}
COMPARED = [
    ("0.5", r"\frac{1}{2}", 1),
    ("1234", "1,234", 1),
    ("−7", "-7", 1),
    ("so 12 - 5 = 7", "-7", 0),
    ("50%", "50", 1),
    ("50%", "1/2", None),
    ("5 cm", r"5\text{ cm}", 1),
    ("$30", r"\$30", 1),
    ("Answer: 4. Check: 2+3 = 5", "The answer is 4.", 1),
    ("答：56个。", "56", 1),
    ("I get 28, since it grows by 6", "28", None),
    ("3", "2, 3", None),
    ("2", r"\sqrt{2}", None),
    ("2", "2x", None),
    ("answer: B", "B", 1),
    ("no idea", "4", None),
    ("1/0", "4", None),
]


def jsonl(path: Path, *lines: dict[str, Any] | str) -> Path:
    path.write_text("".join((it if isinstance(it, str) else json.dumps(it)) + "\n" for it in lines))
    return path


def read_marks(path: Path) -> dict[Any, dict[str, Any]]:
    """By id; each id has one line."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    marks = {it["id"]: it for it in lines}
    assert len(marks) == len(lines)
    return marks


@pytest.mark.engine
async def test_homework_is_marked_right(demo: str, tmp_path: Path) -> None:
    """English and Chinese, with and without a reference."""
    out = tmp_path / "marks.jsonl"
    done = await example("grade_homework.py", EXAMPLES / "homework.jsonl", out, url=demo)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("5 right, 4 wrong, 2 for a person to decide")
    marks = read_marks(out)
    assert {it: mark["mark"] for it, mark in marks.items()} == {
        **{"anna-1": 1, "anna-2": 0, "anna-3": None},
        **{"ben-1": 0, "ben-2": 1, "ben-3": None},
        **{"li-1": 1, "li-2": 0, "wang-1": 0, "wang-2": 1, "carl-1": 1},
    }
    for name, right in {"anna-2": "336", "ben-1": "17", "li-2": "9", "wang-1": "93"}.items():
        assert marks[name]["right"] == right
        assert f"\\boxed{{{right}}}" in marks[name]["solution"]
        assert marks[name]["feedback"] is None, "the demo model declines to explain"


async def test_answers_are_compared_as_numbers_or_left_to_a_person(tmp_path: Path) -> None:
    tasks = [
        {"id": it, "question": "?", "student_answer": work, "reference": reference}
        for it, (work, reference, _) in enumerate(COMPARED)
    ]
    out = tmp_path / "out"
    async with scripted() as (_, _, url):
        await example("grade_homework.py", jsonl(tmp_path / "in", *tasks), out, url=url)
    marks = read_marks(out)
    assert [(*it[:2], marks[at]["mark"]) for at, it in enumerate(COMPARED)] == COMPARED


async def test_votes_that_disagree_are_left_to_a_person(tmp_path: Path) -> None:
    """A marker must be surer than the largest of several small groups."""
    answers = [{"think": "hm", "answer": f"\\boxed{{{it}}}"} for it in (7, 1, 2)]
    text = "script:" + json.dumps({"choices": answers})
    task = {"id": "a", "question": text, "student_answer": "7"}
    out = tmp_path / "out"
    async with scripted() as (_, _, url):
        done = await example("grade_homework.py", jsonl(tmp_path / "in", task), out, url=url)
    assert "1 for a person to decide" in done.out
    mark = read_marks(out)["a"]
    assert (mark["mark"], mark["why"]) == (None, "the model's votes disagree")


async def test_feedback_is_kept_if_it_comes_to_the_right_answer(tmp_path: Path) -> None:
    said = "You added before you multiplied: \\boxed{14}"
    task = {"student_answer": "(2+3)·4 = 20", "reference": 14}
    tasks = jsonl(
        tmp_path / "in",
        {"id": "kept", "question": script(said), **task},
        {"id": "dropped", "question": script("It is \\boxed{20}"), **task},
    )
    async with scripted() as (_, _, url):
        await example("grade_homework.py", tasks, tmp_path / "out", url=url)
    marks = read_marks(tmp_path / "out")
    assert {it: mark["mark"] for it, mark in marks.items()} == {"kept": 0, "dropped": 0}
    assert marks["kept"]["feedback"] == said
    assert marks["dropped"]["feedback"] is None


async def test_a_run_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    """What has its line isn't asked again; half a line is made whole."""
    tasks = jsonl(tmp_path / "in", *({"id": it, **SEVEN} for it in ("a", "b", "c")))
    out = tmp_path / "out"
    out.write_text('{"id": "a", "mark": 0}\n{"id": "b", "ma')
    async with scripted() as (engine, _, url):
        done = await example("grade_homework.py", tasks, out, url=url)
        assert (done.status, done.err) == (0, "")
        assert "2 right, 0 wrong" in done.out
        assert "1 were marked before" in done.out
        marks = read_marks(out)
        assert {it: mark["mark"] for it, mark in marks.items()} == {"a": 0, "b": 1, "c": 1}
        asked = engine.counters.num_requests
        again = await example("grade_homework.py", tasks, out, url=url)
        assert "3 were marked before" in again.out
        assert engine.counters.num_requests == asked


async def test_a_file_that_holds_no_marks_is_not_touched(tmp_path: Path) -> None:
    """Such as homework, where the two were mixed up."""
    tasks = tmp_path / "in"
    tasks.write_text(json.dumps({"id": 1, **SEVEN}))
    done = await example("grade_homework.py", tasks, tasks)
    assert done.status == 2
    assert f"{tasks} has lines that are no marks" in done.err
    assert json.loads(tasks.read_text())["id"] == 1


async def test_lines_that_fail_are_named_and_the_others_are_marked(tmp_path: Path) -> None:
    good = {"id": 1, **SEVEN}
    fails = {**good, "id": 2, "question": "x" * 40_000}
    tasks = jsonl(tmp_path / "in", "{oops", good, "", {"id": 3}, good, fails, "[1]")
    out = tmp_path / "out"
    async with scripted() as (_, _, url):
        done = await example("grade_homework.py", tasks, out, url=url)
    assert done.status == 1
    assert read_marks(out).keys() == {1}
    told = re.findall(r"^line (\d+): ", done.err, re.M)
    assert sorted(map(int, told)) == [1, 4, 5, 6, 7]
    assert "line 4: no question, student_answer" in done.err
    assert re.search("line 6: .*too many for a context", done.err)
    assert "5 couldn't be" in done.out


async def test_a_full_server_is_waited_for(tmp_path: Path) -> None:
    """One request runs and none waits: the other gets 429 and comes back as told."""
    task = {"question": "?", "student_answer": "7", "reference": "8"}
    tasks = jsonl(tmp_path / "in", *({"id": it, **task} for it in range(2)))
    out = tmp_path / "out"
    async with scripted(max_in_flight=1, max_queued=0) as (_, router, url):
        done = await example("grade_homework.py", tasks, out, url=url)
        metrics = (await router.http.get("/metrics")).text
    assert (done.status, done.err) == (0, "")
    assert len(read_marks(out)) == 2
    assert re.search(r'^r1_rejections_total\{reason="queue_full"\} [1-9]', metrics, re.M)
