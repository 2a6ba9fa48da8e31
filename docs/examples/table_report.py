"""A table in, a report out: CSV to Markdown.

    python table_report.py sales.csv > report.md
    python table_report.py sales.csv --note "For the board, in Chinese." > report.md

A small model writes well and adds up badly, so every figure is worked out here: totals, means, the
highest and the lowest with their rows, the change from the first row to the last. The model gets
these, writes the text, and each number in the text is looked up among them. Numbers in words
("three quarters") aren't. Needs `pip install openai`.
Status: 0 a report, 1 one with numbers that aren't among the figures (it names them at its end),
2 none: where the model wrote nothing about the figures, they stand alone.
"""

import argparse
import csv
import os
import re
import sys
from decimal import Decimal
from pathlib import Path

from openai import OpenAI, OpenAIError

HEAD = ("figure", "total", "mean", "highest", "lowest", "first to last")


def read(path: Path) -> list[dict[str, str]]:
    text = path.read_text(encoding="utf-8-sig")
    comma = max(",;\t", key=text.partition("\n")[0].count)
    return list(csv.DictReader(text.splitlines(), delimiter=comma))


def number(cell: str | None) -> Decimal | None:
    bare = re.sub(r"[,\s%$€£¥]", "", cell or "")
    return Decimal(bare) if re.fullmatch(r"-?\d+(\.\d+)?", bare) else None


def shown(value: Decimal) -> str:
    """Two decimals at most, thousands apart."""
    text = f"{value:,.2f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def figures(rows: list[dict[str, str]]) -> str:
    """A Markdown table: a row for each column of numbers. The first column names the rows."""
    label, *columns = (name for name in rows[0] if name is not None)
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for column in columns:
        known = [(value, row[label]) for row in rows if (value := number(row[column])) is not None]
        if len(known) <= len(rows) / 2:
            continue
        values = [value for value, _ in known]
        (high, at_high), (low, at_low) = (
            pick(known, key=lambda pair: pair[0]) for pick in (max, min)
        )
        change = f"{shown((values[-1] / values[0] - 1) * 100)} %" if values[0] else "–"
        cells = (
            *(column, shown(sum(values)), shown(sum(values) / len(values))),
            *(f"{shown(high)} ({at_high})", f"{shown(low)} ({at_low})", change),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def numbers(text: str) -> dict[Decimal, str]:
    """Those in the text, as value and as written; numbers of lists and headings apart."""
    text = re.sub(r"^[#\s]*\d+[.)]\s", "", text, flags=re.M)
    found = re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", text)
    return {Decimal(it.replace(",", "")): it for it in found}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--model", help="default: the first that the server names")
    parser.add_argument("--note", default="", help="what it is about, for whom, in which language")
    args = parser.parse_args()
    try:
        rows = read(args.table)
    except (OSError, UnicodeError, csv.Error) as error:
        parser.error(f"{args.table}: {error}")
    table = figures(rows) if rows else ""
    if table.count("\n") < 2:
        parser.error(f"{args.table} has no column of numbers beside its first")
    facts = (
        f"{args.note}\n\n{len(rows)} rows of {args.table.name}. Quote figures as they stand here:"
    )
    facts = f"{facts}\n\n{table}".strip()
    client = OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
    )
    try:
        reply = client.chat.completions.create(
            model=args.model or client.models.list().data[0].id,
            messages=[{"role": "user", "content": facts}],
            extra_body={"preset": "report"},
        )
    except OpenAIError as error:
        print(f"table_report: {client.base_url}: {error}", file=sys.stderr)
        return 2
    text = (reply.choices[0].message.content or "").strip()
    given, said = numbers(facts), numbers(text)
    print(table)
    if given.keys().isdisjoint(said):
        print("table_report: the model wrote nothing about the figures", file=sys.stderr)
        return 2
    print(f"\n{text}")
    if strange := [written for value, written in said.items() if value not in given]:
        print(f"\n> Not among the figures, so check: {', '.join(strange)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
