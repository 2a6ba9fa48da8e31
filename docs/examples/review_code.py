"""Review a change: a unified diff in, comments out, one JSON object a line.

    git diff main | python review_code.py
    git diff --cached | python review_code.py --fail-on error     # .git/hooks/pre-commit

Each file is reviewed by itself: a small model keeps its mind on one. Its reply is bound to a JSON
schema, which begins after the thinking. Small models cite wrong line numbers but copy well, so the
model quotes the line that it means, and the number is looked up here; a comment on a line that
isn't among those added is dropped, and told. Needs `pip install openai`.
Status: 0 nothing as bad as --fail-on, 1 something is, 2 the review failed for a file.
"""

import argparse
import json
import os
import re
import sys

from openai import OpenAI, OpenAIError

SEVERITIES = ("note", "warning", "error")
COMMENT = {
    "code": {"type": "string", "maxLength": 200},
    "severity": {"enum": list(SEVERITIES)},
    "comment": {"type": "string", "maxLength": 500},
}
ITEM = {"type": "object", "properties": COMMENT, "additionalProperties": False}
LIST = {"type": "array", "maxItems": 5, "items": ITEM | {"required": list(COMMENT)}}
SCHEMA = {
    "type": "object",
    "properties": {"comments": LIST},
    "required": ["comments"],
    "additionalProperties": False,
}
PRESET = "chat"  # which adds no instruction; `code` would ask for a whole program
ASKED = """Review this change to {file} ("+" lines are new, "-" lines are gone). Look for bugs:
wrong results, crashes, unhandled cases, security. Leave out praise and matters of style; where
nothing is wrong the list is empty. Reply as JSON: {{"comments": [{{"code": one new line, copied
exactly, "severity": "note", "warning" or "error", "comment": what goes wrong and when}}]}}

{diff}"""


def files(diff: str) -> dict[str, str]:
    """Each file that has new lines, and its part of the diff."""
    parts = re.split(r"^(?=diff --git |--- .*\n\+\+\+ .*\n@@)", diff, flags=re.M)
    found = {}
    for part in parts:
        name = re.search(r"^\+\+\+ (?:[biw]/)?([^\t\n]+)", part, re.M)
        if name and name[1] != "/dev/null" and added(part):
            found[name[1]] = part[part.find("@@") :]
    return found


def added(part: str) -> list[tuple[int, str]]:
    """New lines with their numbers in the new file."""
    found, number = [], 0
    for line in part[part.find("@@") :].splitlines():
        if at := re.match(r"@@ -\S+ \+(\d+)", line):
            number = int(at[1]) - 1
        elif not line.startswith(("-", "\\")):
            number += 1
            if line.startswith("+"):
                found.append((number, line[1:]))
    return found


def review(client: OpenAI, model: str, file: str, diff: str) -> tuple[list[dict], int]:
    """Comments, and how many fit no new line. Raises OpenAIError; ValueError for a bad reply."""
    reply = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": ASKED.format(file=file, diff=diff)}],
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "review", "schema": SCHEMA, "strict": True},
        },
        extra_body={"preset": PRESET},
    )
    if reply.choices[0].finish_reason == "length":
        raise ValueError("the reply was cut off")
    said = json.loads(reply.choices[0].message.content or "")["comments"]
    comments = []
    for it in said:
        quoted = it["code"].lstrip("+ ").partition("\n")[0].strip()
        lines = [number for number, line in added(diff) if len(quoted) > 3 and quoted in line]
        if lines:
            comments.append({"file": file, "line": lines[0], **it, "code": quoted})
    return comments, len(said) - len(comments)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="default: the first that the server names")
    parser.add_argument("--fail-on", choices=SEVERITIES, default="error", help="(error)")
    args = parser.parse_args()
    sys.stdin.reconfigure(errors="replace")
    changed = files(sys.stdin.read())
    client = OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
    )
    status = 0
    for file, diff in changed.items():
        try:
            model = args.model or client.models.list().data[0].id
            comments, dropped = review(client, model, file, diff)
        except (OpenAIError, ValueError, KeyError, TypeError) as error:
            print(f"review_code: {file}: not reviewed: {error}", file=sys.stderr)
            status = 2
            continue
        for comment in comments:
            print(json.dumps(comment, ensure_ascii=False), flush=True)
            if SEVERITIES.index(comment["severity"]) >= SEVERITIES.index(args.fail_on):
                status = max(status, 1)
        if dropped:
            print(f"review_code: {file}: quotations of no new line: {dropped}", file=sys.stderr)
            status = status if comments else 2
    return status


if __name__ == "__main__":
    sys.exit(main())
