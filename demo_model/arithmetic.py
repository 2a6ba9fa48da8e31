"""Worked sums and differences, column by column, in English and Chinese.

Owns the text of the steps; which problem they belong to is the callers' business. There are two
forms: `full` (one line a column, every carry written out) for bare sums, and `compact` (one line
a sum) inside longer problems. Every `a+b=c` written here holds, so a checker can verify a trace.
"""

from typing import Literal

Language = Literal["en", "zh"]

PLACES = {
    "en": ("ones", "tens", "hundreds", "thousands", "ten-thousands"),
    "zh": ("个位", "十位", "百位", "千位", "万位"),
}


def digits(number: int, width: int) -> list[int]:
    """The decimal digits of `number`, ones first, padded with zeros to `width`."""
    return [number // 10**place % 10 for place in range(width)]


def full_sum(a: int, b: int, language: Language) -> str:
    """`a+b` with one line a column; the sum of two one-digit numbers is a fact, not worked."""
    if a < 10 and b < 10:
        return f"{a}+{b}={a + b}"
    width = len(str(max(a, b)))
    lines, carry = [f"{a}+{b}:"], 0
    for place, x, y in zip(PLACES[language], digits(a, width), digits(b, width), strict=False):
        total = x + y + carry
        step = f"{x}+{y}+{carry}={total}"
        carry = total // 10
        if language == "en":
            lines.append(f"{place}: {step}, write {total % 10}, carry {carry}")
        else:
            lines.append(f"{place}：{step}，写{total % 10}，进{carry}")
    lines.append(f"{a}+{b}={a + b}")
    return "\n".join(lines)


def full_difference(a: int, b: int, language: Language) -> str:
    """`a-b` with one line a column; a negative result is the reverse difference with a sign."""
    if a < b:
        if language == "en":
            opening = f"{a} is less than {b}, so the result is negative."
        else:
            opening = f"{a}小于{b}，结果是负数。"
        return f"{opening}\n{full_difference(b, a, language)}\n{a}-{b}=-{b - a}"
    if a < 10:
        return f"{a}-{b}={a - b}"
    width = len(str(a))
    lines, borrow = [f"{a}-{b}:"], 0
    for place, x, y in zip(PLACES[language], digits(a, width), digits(b, width), strict=False):
        left = x - y - borrow
        if left < 0:
            too_small = "is below 0" if language == "en" else "不够"
            separator = ", " if language == "en" else "，"
            left += 10
            step = f"{x}-{y}-{borrow} {too_small}{separator}1{x}-{y}-{borrow}={left}"
            borrow = 1
        else:
            step = f"{x}-{y}-{borrow}={left}"
            borrow = 0
        if language == "en":
            lines.append(f"{place}: {step}, write {left}, borrow {borrow}")
        else:
            lines.append(f"{place}：{step}，写{left}，借{borrow}")
    lines.append(f"{a}-{b}={a - b}")
    return "\n".join(lines)


def compact_sum(a: int, b: int, language: Language) -> str:
    """`a+b` on one line: `47+85: 7+5=12, 4+8+1=13, so 132`."""
    if a < 10 and b < 10:
        return f"{a}+{b}={a + b}"
    width = len(str(max(a, b)))
    steps, carry = [], 0
    for x, y in zip(digits(a, width), digits(b, width), strict=True):
        total = x + y + carry
        steps.append(f"{x}+{y}+1={total}" if carry else f"{x}+{y}={total}")
        carry = total // 10
    return _one_line(f"{a}+{b}", steps, a + b, language)


def compact_difference(a: int, b: int, language: Language) -> str:
    """`a-b` (not negative) on one line: `63-37: 13-7=6, 6-1-3=2, so 26`."""
    if a < 10:
        return f"{a}-{b}={a - b}"
    width = len(str(a))
    steps, borrow = [], 0
    for x, y in zip(digits(a, width), digits(b, width), strict=True):
        left = x - y - borrow
        top = f"1{x}" if left < 0 else f"{x}"
        taken = f"1-{y}" if borrow else f"{y}"
        borrow = int(left < 0)
        steps.append(f"{top}-{taken}={left % 10}")
    return _one_line(f"{a}-{b}", steps, a - b, language)


def _one_line(task: str, steps: list[str], result: int, language: Language) -> str:
    if language == "en":
        return f"{task}: {', '.join(steps)}, so {result}"
    return f"{task}：{'，'.join(steps)}，得{result}"
