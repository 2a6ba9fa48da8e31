"""Bare arithmetic: addition, subtraction, times table, and chains done in one go."""

from random import Random

from demo_model.arithmetic import Language, full_difference, full_sum
from demo_model.problem import Problem, pair_key

SLIP_RATE = 0.03
SLIPS = (1, 1, 2, 3, 5, 10, 10, 20)
LARGEST_TOTAL = 199

ADD = {
    "en": (
        "{a}+{b}", "{a} + {b}", "{a}+{b}=", "{a} + {b} =", "{a}+{b}=?", "{a} + {b} = ?",
        "What is {a} + {b}?", "What is {a}+{b}?", "what is {a} plus {b}", "What is {a} plus {b}?",
        "What's {a} + {b}?", "whats {a}+{b}", "Compute {a} + {b}.", "Compute {a}+{b}",
        "Calculate {a} + {b}.", "calculate {a}+{b}", "Add {a} and {b}.", "Add {a} to {b}.",
        "add {a} and {b}", "Find the sum of {a} and {b}.", "What is the sum of {a} and {b}?",
        "How much is {a} + {b}?", "How much is {a} plus {b}?", "Work out {a} + {b}.",
        "Please add {a} and {b}.", "Please compute {a} + {b}.", "Can you add {a} and {b}?",
        "Could you tell me what {a} + {b} is?", "Tell me {a} plus {b}.", "Solve: {a} + {b}",
        "Solve {a}+{b}.", "Evaluate {a} + {b}.", "{a} plus {b}", "{a} plus {b} equals what?",
        "Give me the total of {a} and {b}.", "What do you get when you add {a} and {b}?",
        "I need {a} + {b}.", "If I add {b} to {a}, what do I get?", "Sum {a} and {b}.",
    ),
    "zh": (
        "{a}+{b}", "{a}+{b}=?", "{a} + {b} = ?", "{a}+{b}=", "{a}+{b}等于多少？",
        "{a} + {b} 等于多少？",
        "{a}加{b}等于多少？", "{a} 加 {b} 是多少？", "请计算{a}+{b}", "请计算 {a} + {b}。",
        "计算{a}+{b}。",
        "计算 {a}+{b}", "求{a}与{b}的和。", "求 {a} 和 {b} 的和", "{a}和{b}的和是多少？",
        "算一下{a}+{b}",
        "帮我算{a}加{b}。", "请问 {a}+{b} 是多少？", "{a}加上{b}得多少？", "把{a}和{b}加起来。",
    ),
}  # fmt: skip
SUBTRACT = {
    "en": (
        "{a}-{b}", "{a} - {b}", "{a}-{b}=", "{a} - {b} =", "{a}-{b}=?", "{a} - {b} = ?",
        "What is {a} - {b}?", "What is {a}-{b}?", "what is {a} minus {b}", "What is {a} minus {b}?",
        "What's {a} - {b}?", "whats {a}-{b}", "Compute {a} - {b}.", "Compute {a}-{b}",
        "Calculate {a} - {b}.", "calculate {a}-{b}", "Subtract {b} from {a}.",
        "subtract {b} from {a}", "Take {b} away from {a}.", "Take {b} from {a}.",
        "Find the difference of {a} and {b}.", "What is the difference between {a} and {b}?",
        "How much is {a} - {b}?", "How much is {a} minus {b}?", "Work out {a} - {b}.",
        "Please subtract {b} from {a}.", "Please compute {a} - {b}.", "What is {a} less {b}?",
        "Can you subtract {b} from {a}?", "Could you tell me what {a} - {b} is?",
        "Tell me {a} minus {b}.", "Solve: {a} - {b}", "Solve {a}-{b}.", "Evaluate {a} - {b}.",
        "{a} minus {b}", "{a} minus {b} equals what?", "I need {a} - {b}.",
        "What is left when {b} is taken from {a}?", "By how much is {a} larger than {b}?",
    ),
    "zh": (
        "{a}-{b}", "{a}-{b}=?", "{a} - {b} = ?", "{a}-{b}=", "{a}-{b}等于多少？",
        "{a} - {b} 等于多少？",
        "{a}减{b}等于多少？", "{a} 减 {b} 是多少？", "请计算{a}-{b}", "请计算 {a} - {b}。",
        "计算{a}-{b}。",
        "计算 {a}-{b}", "求{a}与{b}的差。", "求 {a} 和 {b} 的差", "{a}和{b}的差是多少？",
        "算一下{a}-{b}",
        "帮我算{a}减{b}。", "请问 {a}-{b} 是多少？", "{a}减去{b}得多少？", "从{a}中减去{b}。",
        "{a}比{b}多多少？",
    ),
}  # fmt: skip
TIMES = {
    "en": (
        "{a} × {b}", "{a}×{b}", "{a}*{b}", "{a} * {b} = ?", "What is {a} × {b}?", "{a} times {b}",
        "What is {a} times {b}?", "Multiply {a} by {b}.", "Compute {a} * {b}.", "What is {a}*{b}?",
        "Find the product of {a} and {b}.", "How much is {a} times {b}?", "{a} x {b}",
    ),
    "zh": (
        "{a}×{b}", "{a}×{b}=?", "{a} × {b} 等于多少？", "{a}乘{b}等于多少？", "{a}乘以{b}是多少？",
        "计算{a}×{b}。", "求{a}和{b}的积。", "{a}*{b}",
    ),
}  # fmt: skip
CHAIN = {
    "en": (
        "{e}", "{e} = ?", "{e}=", "What is {e}?", "Compute {e}.", "Calculate {e}", "Evaluate {e}.",
        "Work out {e}.", "Solve: {e}", "How much is {e}?", "Please compute {e}.", "Find {e}.",
        "What do you get for {e}?", "Work this out from left to right: {e}", "I need {e}.",
        "Give the value of {e}.", "Could you work out {e}?", "What does {e} come to?",
    ),
    "zh": (
        "{e}", "{e} = ?", "{e}=", "{e}等于多少？", "{e} 等于多少？", "计算 {e}", "请计算{e}。",
        "算一下 {e}。", "求 {e} 的值。", "请问 {e} 是多少？", "从左到右计算：{e}",
    ),
}  # fmt: skip


def boxed(answer: int | str, text: str, language: Language) -> str:
    """One closing sentence with the boxed answer."""
    if language == "en":
        return f"{text} The answer is \\boxed{{{answer}}}."
    return f"{text}答案是\\boxed{{{answer}}}。"


def number(rng: Random, longest: int = 4) -> int:
    """A number of 1 to `longest` digits, each length about equally likely, one digit less so."""
    length = rng.choices(range(1, longest + 1), (1, 3, 3, 3)[:longest])[0]
    return rng.randrange(10 ** (length - 1) if length > 1 else 0, 10**length)


def _pair(rng: Random) -> tuple[int, int]:
    a, b = number(rng), number(rng)
    if rng.random() < 0.5:  # like lengths more often than chance gives
        length = len(str(a))
        b = rng.randrange(10 ** (length - 1) if length > 1 else 0, 10**length)
    return a, b


def addition(rng: Random, language: Language) -> Problem:
    a, b = _pair(rng)
    question = rng.choice(ADD[language]).format(a=a, b=b)
    reply = boxed(a + b, f"{a}+{b}={a + b}" + ("." if language == "en" else "。"), language)
    trace = full_sum(a, b, language)
    return Problem("addition", language, question, trace, reply, str(a + b), pair_key(a, b))


def subtraction(rng: Random, language: Language) -> Problem:
    a, b = _pair(rng)
    if a < b and rng.random() < 0.9:
        a, b = b, a
    question = rng.choice(SUBTRACT[language]).format(a=a, b=b)
    if a < b and any(word in question for word in ("difference", "的差", "larger", "比")):
        a, b = b, a
        question = rng.choice(SUBTRACT[language][:12]).format(a=a, b=b)
    reply = boxed(a - b, f"{a}-{b}={a - b}" + ("." if language == "en" else "。"), language)
    trace = full_difference(a, b, language)
    return Problem("subtraction", language, question, trace, reply, str(a - b), pair_key(a, b))


def times(rng: Random, language: Language) -> Problem:
    """A fact of the times table. All are taught: nothing here is held out."""
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    question = rng.choice(TIMES[language]).format(a=a, b=b)
    reply = boxed(a * b, f"{a}×{b}={a * b}" + ("." if language == "en" else "。"), language)
    return Problem("times", language, question, f"{a}×{b}={a * b}", reply, str(a * b), ("times",))


def chain(
    rng: Random, language: Language, *, length: int | None = None, slip_rate: float = SLIP_RATE
) -> Problem:
    """5 to 10 (now and then 3 or 4) two-digit numbers joined by + and −, each step in one go.

    With probability `slip_rate` a step is off by a little and the trace goes on from it, so that
    a model trained on this errs at random, the way that voting can mend. `slip_rate=0` is exact.
    """
    length = length or (rng.randint(5, 10) if rng.random() < 0.85 else rng.randint(3, 4))
    total = rng.randint(10, 99)
    numbers, shown, lines = [total], str(total), []
    exact = total
    spaced = rng.random() < 0.6
    for _ in range(length - 1):
        value = rng.randint(1, 99) if length < 5 else rng.randint(10, 99)
        signs = [
            s for s in (1, -1) if all(0 <= t + s * value <= LARGEST_TOTAL for t in (total, exact))
        ]
        if not signs:
            value, signs = 10, [1 if max(total, exact) < 100 else -1]
        sign = rng.choice(signs)
        operator = "+" if sign > 0 else "-"
        exact += sign * value
        result = total + sign * value
        if rng.random() < slip_rate:
            result = max(0, result + rng.choice((-1, 1)) * rng.choice(SLIPS))
        lines.append(f"{total}{operator}{value}={result}")
        shown += f" {operator} {value}" if spaced else f"{operator}{value}"
        numbers.append(sign * value)
        total = result
    question = rng.choice(CHAIN[language]).format(e=shown)
    text = "The total is" if language == "en" else "结果是"
    text = f"{text} {total}." if language == "en" else f"{text}{total}。"
    reply = boxed(total, text, language)
    trace = "\n".join(lines)
    return Problem("chain", language, question, trace, reply, str(total), ("chain", *numbers))
