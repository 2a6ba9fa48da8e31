"""Grade homework: a JSONL of tasks and students' answers in, a JSONL of marks out.

    python grade_homework.py homework.jsonl marks.jsonl

A line in: {"id", "question", "student_answer"}, and "reference" where you know the right answer.
A small model shouldn't be asked "is this right?": it is easily talked into things. So it solves
each task itself, eight times, without seeing the student's work, and the majority's answer is
compared with the student's here. Only then, for a wrong answer, is it asked where the work goes
wrong; what it says is kept if it comes to the right answer.

`mark` is 1, 0, or null where a person must decide (`why` says so). What failed or was cut short is
done when you run it again; marks that are there stay. Needs `pip install openai`.
Status: 0 every line has its mark, 1 some haven't (each is named), 2 nothing could be done.
"""

import argparse
import asyncio
import json
import os
import re
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

from openai import AsyncOpenAI, OpenAIError

VOTES = 8
SURE = 2 / 3  # of the votes; where fewer agree a person decides
NUMBER = re.compile(r"(?<![\d)])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?")
UNIT = r"(?:\s+[a-z]+|\s*[一-鿿°]+|\s*\\text\{[^}]*\})?"
SINGLE = re.compile(rf"(?:[a-z]\s*=\s*)?[$€£¥]?\s*({NUMBER.pattern}){UNIT}", re.I)
BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
MARKED = re.compile(r"(?:answer|答案|答)(?: is|[:：是为])*\s*(.+?)(?:[.;]\s|[。；]|$)", re.I | re.M)


def plain(text: object) -> str:
    """With fractions and signs as Python writes them."""
    text = str(text).replace("−", "-").replace("\\%", "%").replace("\\$", "$")
    return re.sub(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"\1/\2", text)


def stated(text: str) -> str | None:
    """The last \\boxed{}, else what follows "answer" or 答."""
    found = BOXED.findall(text) or MARKED.findall(text)
    return found[-1].strip(" .") if found else None


def compare(student: str, right: str) -> int | None:
    """1 or 0 by the student's last number; None where they differ and `right` isn't one number."""
    single, numbers = SINGLE.fullmatch(right), NUMBER.findall(student)
    if student == right:
        return 1
    if not (single and numbers):
        return None
    try:
        a, b = (Fraction(re.sub("[,%]", "", it)) for it in (single[1], numbers[-1]))
    except ZeroDivisionError:
        return None
    return 1 if a == b else None if "%" in student + right else 0


async def grade(client: AsyncOpenAI, model: str, task: dict) -> dict:
    """The line of marks for one task. Raises OpenAIError."""

    async def ask(text: str, **extra):
        messages = [{"role": "user", "content": text}]
        return await client.chat.completions.create(
            model=model, messages=messages, extra_body=extra
        )

    question, work = task["question"], plain(task["student_answer"])
    student = stated(work) or (NUMBER.findall(work) or [work])[-1]
    line = {"id": task["id"], "mark": None, "student": student}
    if "reference" in task:
        right = plain(task["reference"])
        line["right"] = right = stated(right) or right
    else:
        reply = await ask(question, preset="math", votes=VOTES, seed=0)
        votes = reply.r1["votes"]
        if not votes["answers"]:
            return line | {"why": "the model came to no answer"}
        line["right"] = right = plain(votes["answers"][0]["answer"])
        line["share"] = votes["share"]
        if votes["share"] < SURE:
            return line | {"why": "the model's votes disagree"}
    line["mark"] = compare(student, right)
    if line["mark"] is None:
        return line | {"why": "these can't be compared as numbers"}
    if line["mark"] == 0 and not stated(work) and right in NUMBER.findall(work):
        return line | {"mark": None, "why": "the right answer occurs in the work, but not last"}
    if line["mark"] == 0:
        text = (
            f"Task: {question}\n\nA student's work: {work}\n\nThe right answer is {right}. Tell "
            "the student in a few sentences at which step the work goes wrong, and why."
        )
        said = (await ask(text, preset="explain")).choices[0].message.content or ""
        line["feedback"] = said if compare(stated(plain(said)) or "", right) else None
        line["solution"] = reply.choices[0].message.content if "share" in line else None
    return line


def read_tasks(path: Path) -> tuple[dict, list[str]]:
    """The good lines, by their ids, and what is wrong with the others."""
    tasks, wrong = {}, []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            task = json.loads(line)
            missing = {"id", "question", "student_answer"}.difference(task)
            if missing:
                raise ValueError("no " + ", ".join(sorted(missing)))
            if task["id"] in tasks:
                raise ValueError(f"its id {task['id']!r} is another line's")
            tasks[task["id"]] = task | {"line": number}
        except (ValueError, TypeError) as error:
            wrong.append(f"line {number}: {error}")
    return tasks, wrong


def marked(path: Path) -> set:
    """The ids that have their line; half a line, as of a killed run, is cut off. Raises ValueError
    for a file of something else, which stays as it is."""
    ids, size = set(), 0
    for line in path.read_bytes().splitlines(keepends=True):
        whole = line.endswith(b"\n")
        try:
            mark = json.loads(line)
        except ValueError:
            mark = {} if whole else {"mark": None}
        if "mark" not in mark:
            raise ValueError(f"{path} has lines that are no marks")
        if whole:
            ids.add(mark["id"])
            size += len(line)
        else:
            os.truncate(path, size)
    return ids


async def run(client: AsyncOpenAI, args: argparse.Namespace) -> int:
    tasks, wrong = read_tasks(args.tasks)
    args.marks.touch()
    there = marked(args.marks)
    model = args.model or (await client.with_options(max_retries=1).models.list()).data[0].id
    slots, counts = asyncio.Semaphore(args.parallel), Counter()

    async def one(task: dict) -> dict | str:
        async with slots:
            try:
                return await grade(client, model, task)
            except OpenAIError as error:
                return f"line {task['line']}: {error}"

    with args.marks.open("a", encoding="utf-8") as out:
        for coming in asyncio.as_completed([one(t) for i, t in tasks.items() if i not in there]):
            result = await coming
            if isinstance(result, str):
                wrong.append(result)
                continue
            print(json.dumps(result, ensure_ascii=False), file=out, flush=True)
            counts[result["mark"]] += 1
    print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)
    print(
        f"{counts[1]} right, {counts[0]} wrong, {counts[None]} for a person to decide; "
        f"{len(there)} were marked before, {len(wrong)} couldn't be"
    )
    return 1 if wrong else 0


async def connected(args: argparse.Namespace) -> int:
    async with AsyncOpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
        max_retries=10,  # a full server says when to come back (429), and the SDK does
    ) as client:
        return await run(client, args)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", type=Path)
    parser.add_argument("marks", type=Path)
    parser.add_argument("--model", help="default: the first that the server names")
    parser.add_argument("--parallel", type=int, default=8, help="requests at once (8)")
    args = parser.parse_args()
    try:
        return asyncio.run(connected(args))
    except (OpenAIError, OSError, ValueError) as error:
        print(f"grade_homework: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped; run it again to go on.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
