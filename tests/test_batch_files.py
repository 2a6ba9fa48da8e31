"""What is left of a bulk job follows from its two files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serve.batch_files import (
    Answer,
    BadRequest,
    BatchError,
    Failure,
    Job,
    Line,
    Response,
    opened,
    parse,
)

GOOD = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Five requests with an empty line among them, and where the answers go."""
    lines = [json.dumps(GOOD | {"custom_id": f"r{n}"}) for n in range(5)]
    (tmp_path / "in.jsonl").write_text("\n".join([*lines[:2], "", *lines[2:]]))
    return tmp_path / "in.jsonl", tmp_path / "out.jsonl"


def answered(line: Line, status: int = 200) -> Answer:
    return Answer(line.id, line.custom_id, Response(status, "id", msgspec.Raw(b'{"a":1}')))


def answer_some(job: Job, num: int) -> list[int]:
    """Answers the first `num` that are open; their numbers."""
    lines = list(job.unanswered())[:num]
    for line in lines:
        job.write(answered(line))
    return [line.number for line in lines]


def test_each_line_is_answered_once_over_all_runs(files: tuple[Path, Path]) -> None:
    """A run begins where the last one ended; empty lines are none."""
    with opened(*files) as job:
        assert (job.num_lines, job.num_answered) == (5, 0)
        assert answer_some(job, 2) == [1, 2]
        assert job.num_answered == 2
    with opened(*files) as job:
        assert job.num_answered == 2
        assert answer_some(job, 9) == [4, 5, 6]
    with opened(*files) as job:
        assert list(job.unanswered()) == []
    answers = [json.loads(line) for line in files[1].read_text().splitlines()]
    assert [it["custom_id"] for it in answers] == ["r0", "r1", "r2", "r3", "r4"]
    assert answers[0]["response"] == {"status_code": 200, "request_id": "id", "body": {"a": 1}}
    assert answers[0]["error"] is None


@pytest.mark.parametrize("num_bytes", [1, 20, 60, 110])
def test_a_torn_last_line_is_asked_again(files: tuple[Path, Path], num_bytes: int) -> None:
    """As a kill leaves it."""
    with opened(*files) as job:
        answer_some(job, 2)
    whole = files[1].read_bytes()
    first_end = whole.index(b"\n") + 1
    files[1].write_bytes(whole[: first_end + num_bytes])
    with opened(*files) as job:
        assert job.num_answered == 1
        assert answer_some(job, 1) == [2]
    assert files[1].read_bytes() == whole


def test_answers_with_errors_are_answers(files: tuple[Path, Path]) -> None:
    """They are counted, also those of earlier runs."""
    with opened(*files) as job:
        first, second, *_ = job.unanswered()
        job.write(Answer(first.id, None, error=Failure("invalid_request", "why")))
        job.write(answered(second, 400))
        assert (job.num_answered, job.num_failed) == (2, 2)
    with opened(*files) as job:
        assert (job.num_answered, job.num_failed) == (2, 2)


def test_changed_requests_are_refused(files: tuple[Path, Path]) -> None:
    """Another request in the place of one that was answered, or none at all."""
    requests, _ = files
    with opened(*files) as job:
        answer_some(job, 3)
    text = requests.read_text()
    for changed in (text.replace("r0", "x0"), text.splitlines()[0], "\n" + text):
        requests.write_text(changed)
        with pytest.raises(BatchError, match="answers to other requests"), opened(*files):
            pass
    requests.write_text(text.replace("r4", "x4") + "\n" + json.dumps(GOOD))
    with opened(*files) as job:
        assert (job.num_lines, job.num_answered) == (6, 3)


@pytest.mark.parametrize("line", ['{"id": "batch_req_0_12345678"}', '{"id": 1}', "hello", "[1]"])
def test_a_file_of_others_is_left_alone(files: tuple[Path, Path], line: str) -> None:
    files[1].write_text(line + "\n")
    with pytest.raises(BatchError, match="not of a batch"), opened(*files):
        pass
    assert files[1].read_text() == line + "\n"


def test_files_that_cannot_be_used(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Nothing is made where there is nothing to read; two runs don't write to one file."""
    requests, answers = files
    with pytest.raises(BatchError, match=r"none\.jsonl: No such file"):
        opened(tmp_path / "none.jsonl", answers).__enter__()
    assert not answers.exists()
    for pair in ((requests, Path("/dev/null")), (Path("/dev/null"), answers)):
        with pytest.raises(BatchError, match="/dev/null is no file"):
            opened(*pair).__enter__()
    shutil.copy(requests, tmp_path / "same.jsonl")
    with pytest.raises(BatchError, match="the file of the requests"):
        opened(requests, requests).__enter__()
    assert requests.read_bytes() == (tmp_path / "same.jsonl").read_bytes()
    with (
        opened(*files),
        pytest.raises(BatchError, match="another batch is writing"),
        opened(*files),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"url": "/v1/embeddings"}, "`url` can't be '/v1/embeddings'"),
        ({"url": "/v1/chat/completion"}, "did you mean `/v1/chat/completions`"),
        ({"method": "GET"}, "`method` must be POST"),
        ({"body": {"stream": True}}, "`body.stream`"),
        ({"body": 1}, r"Expected `object`, got `int` - at `\$.body`"),
        ({"custom_id": None}, r"Expected `str`, got `null` - at `\$.custom_id`"),
    ],
)
def test_lines_that_cannot_be_sent(changes: dict[str, Any], why: str) -> None:
    """The message names the line and the field."""
    line = Line(7, json.dumps(GOOD | changes).encode())
    with pytest.raises(BadRequest, match="line 7.*" + why):
        parse(line)


def test_lines_that_can_be_sent() -> None:
    """`method` may be left out, `stream` may be off."""
    short = {key: value for key, value in GOOD.items() if key != "method"}
    for body in ({}, {"stream": False}, {"stream": None}):
        assert parse(Line(1, json.dumps(short | {"body": body}).encode())).custom_id == "a"
