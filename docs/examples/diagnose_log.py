"""What went wrong? Reads a log, thinks on stderr (dimmed), gives the diagnosis on stdout.

    journalctl -u nginx -n 5000 | python diagnose_log.py
    kubectl logs POD | python diagnose_log.py --note "since the upgrade to 2.1" 2>/dev/null

A log is longer than a small model reads well, so the lines that matter are chosen here, as many as
fit into --tokens: the first of each sort of error, the start and the end, what stands around
errors, more errors, then the rest. The server counts the tokens. Needs `pip install openai`.
Status: 0 a diagnosis, 1 one that quotes nothing of the log (don't rely on it), 2 none.
"""

import argparse
import os
import re
import sys

from openai import OpenAI, OpenAIError

TROUBLE = re.compile(
    r"error|fail|fatal|crit|panic|exception|traceback|killed|out of memory|oom|segfault|"
    r"denied|refused|timed? ?out|unreachable|no space|cannot|can't|unable|错误|失败|异常|超时",
    re.I,
)
AROUND, ENDS, LINE = 2, 10, 400  # lines around an error, at both ends; characters of a line
QUOTE = 4  # so many words in a row are a quotation


def by_worth(lines: list[str]) -> list[int]:
    """The lines' numbers, those first that say most."""
    shapes, first, errors = set(), set(), set()
    for number, line in enumerate(lines):
        if TROUBLE.search(line):
            errors.add(number)
            shape = re.sub(r"[0-9a-f]*\d[0-9a-f]*", "#", line)  # times, addresses, process ids
            if shape not in shapes:
                shapes.add(shape)
                first.add(number)
    near = {at + by for at in first for by in range(-AROUND, AROUND + 1)}
    ends = {*range(ENDS), *range(len(lines) - ENDS, len(lines))}
    worth = (first, ends, near, errors)

    def rank(number: int) -> tuple[int, int]:
        place = next((i for i, them in enumerate(worth) if number in them), len(worth))
        return place, number if place == 0 else -number

    return sorted(range(len(lines)), key=rank)


def excerpt(lines: list[str], numbers: list[int]) -> str:
    """These lines in their order, gaps told."""
    parts, last = [], -1
    for number in [*sorted(numbers), len(lines)]:
        if left_out := number - last - 1:
            parts.append(f"[{left_out} lines left out]")
        parts += lines[number : number + 1]
        last = number
    return "\n".join(parts)


def fitting(client: OpenAI, model: str, lines: list[str], limit: int, note: str) -> str:
    """The prompt with as many lines as the limit has room for."""
    order = by_worth(lines)

    def prompt(num_lines: int) -> str:
        return f"{note}\n\nThis is the log:\n\n{excerpt(lines, order[:num_lines])}".strip()

    def tokens(text: str) -> int:
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        counted = client.post("/messages/count_tokens", cast_to=object, body=body)
        return counted["input_tokens"]

    fits, too_many = 0, min(len(lines), limit) + 1  # a line is a token at least
    while too_many - fits > 1:
        half = (fits + too_many) // 2
        text = prompt(half)
        if len(text) < 8 * limit and tokens(text) <= limit:
            fits = half
        else:
            too_many = half
    return prompt(fits)


def quotes(answer: str, log: str) -> bool:
    """Whether a few words in a row of the answer are the log's."""

    def runs(text: str) -> set:
        words = re.findall(r"\w+", text.lower())
        return {tuple(words[i : i + QUOTE]) for i in range(len(words) - QUOTE + 1)}

    return not runs(answer).isdisjoint(runs(log))


def diagnose(client: OpenAI, model: str, text: str) -> str:
    """The answer, shown as it comes."""
    dim, plain = ("\033[2m", "\033[0m") if sys.stderr.isatty() else ("", "")
    answer = ""
    messages = [{"role": "user", "content": text}]
    for chunk in client.chat.completions.create(
        model=model, messages=messages, extra_body={"preset": "debug"}, stream=True
    ):
        delta = chunk.choices[0].delta
        if thinking := getattr(delta, "reasoning_content", None):
            print(dim, thinking, plain, sep="", end="", file=sys.stderr, flush=True)
        if delta.content:
            print(end="" if answer else "\n\n", file=sys.stderr, flush=True)
            print(delta.content, end="", flush=True)
            answer += delta.content
    print()
    return answer


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="default: the first that the server names")
    parser.add_argument("--note", default="", help="what else is known")
    parser.add_argument("--tokens", type=int, help="of the log; default: half the context")
    args = parser.parse_args()
    sys.stdin.reconfigure(errors="replace")
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip()[:LINE] for line in sys.stdin]
    if not any(lines):
        parser.error("no log came in on stdin")
    client = OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
    )
    try:
        served = client.models.list().data[0]
        model = args.model or served.id
        text = fitting(client, model, lines, args.tokens or served.max_model_len // 2, args.note)
        answer = diagnose(client, model, text)
    except OpenAIError as error:
        print(f"diagnose_log: {client.base_url}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 2
    if not answer:
        print("diagnose_log: the model gave no answer", file=sys.stderr)
        return 2
    if not quotes(answer, text):
        print("diagnose_log: this quotes nothing of the log; don't rely on it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
