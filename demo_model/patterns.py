"""Sequences (arithmetic and Fibonacci-like) and equations with one unknown."""

from random import Random

from demo_model.arithmetic import Language, compact_difference, compact_sum
from demo_model.problem import Key, Problem, pair_key
from demo_model.sums import boxed

ORDINALS = ("1st", "2nd", "3rd", *(f"{n}th" for n in range(4, 100)))
WORDS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth",
         "tenth", "eleventh", "twelfth")  # fmt: skip

TERM_OF_LIST = {
    "en": (
        "What is the {t} term of {s}?", "Find the {t} term of the sequence {s}.",
        "{s} What is the {t} term?", "The sequence is {s} Find the {t} term.",
        "What is term {k} of the sequence {s}?", "In the sequence {s} what is the {t} term?",
        "An arithmetic sequence begins {s} What is its {t} term?", "{s} Give term number {k}.",
        "Consider {s} What is the {t} number?", "Tell me the {t} term: {s}",
    ),
    "zh": (
        "数列 {s} 的第 {k} 项是多少？", "求数列{s}的第{k}项。", "{s}，第{k}项是多少？",
        "等差数列{s}，第 {k} 项是多少？",
        "观察数列：{s}，第{k}个数是多少？",
    ),
}  # fmt: skip
TERM_OF_STEP = {
    "en": (
        "An arithmetic sequence starts at {a} with common difference {d}. What is the {t} term?",
        "A sequence starts with {a} and goes up by {d} each time. What is the {t} term?",
        "A sequence begins at {a} and each term is {d} more than the one before. "
        "Find the {t} term.",
        "Start at {a} and add {d} each time. What is the {t} number?",
        "The first term is {a} and the common difference is {d}. Find the {t} term.",
        "The first term is {a} and each next term is {d} larger. What is term {k}?",
        "Count up from {a} in steps of {d}. What is the {t} number?",
    ),
    "zh": (
        "等差数列首项是 {a}，公差是 {d}，第 {k} 项是多少？",
        "一个等差数列的首项为{a}，公差为{d}，求第{k}项。",
        "从{a}开始，每次加{d}，第{k}个数是多少？",
        "一个数列第一项是{a}，每一项比前一项大{d}，第{k}项是多少？",
    ),
}  # fmt: skip
NEXT = {
    "en": (
        "What comes next: {s}?", "What is the next number: {s}, ?", "{s}, ?", "Next term of {s}?",
        "What is the next term of {s}?", "Which number follows {s}?", "Continue: {s}, ...",
        "Find the next number in the sequence {s}.", "{s}, ... What comes next?",
        "Fill in the next number: {s}, __", "Complete the pattern: {s}, ...",
    ),
    "zh": (
        "下一个数是多少：{s}？", "{s}，下一项是多少？", "数列{s}的下一项是什么？",
        "接下来是哪个数：{s}？", "找规律：{s}，（ ）",
    ),
}  # fmt: skip
FIBONACCI = {
    "en": (
        "A sequence starts with {a} and {b}, and each term equals the sum of the two before. What "
        "is the {t} term?",
        "The first two terms are {a} and {b}. Each term equals the sum of the two before it. What "
        "is the {t} term?",
        "A sequence begins {a}, {b}. Each next term is the sum of the two previous terms. Find the "
        "{t} term.",
        "Start with {a} and {b}; every term is the sum of the two terms before it. Find term {k}.",
        "In a Fibonacci-like sequence the first two terms are {a} and {b}. What is the {t} term?",
        "Each term is the sum of the two before it: {a}, {b}, ... What is the {t} term?",
        "A Fibonacci sequence starts {a}, {b}. What is the {t} term?",
        "Given {a}, {b}, and that each term is the sum of the two before, what is term {k}?",
    ),
    "zh": (
        "一个数列前两项是 {a} 和 {b}，每一项等于前两项之和，第 {k} 项是多少？",
        "一个数列前两项是{a}和{b}，每一项等于前两项之和，第{k}项是多少？",
        "数列的前两项是{a}、{b}，从第三项起每一项是前两项的和，求第{k}项。",
        "数列{a}，{b}，……，每一项等于前两项之和，第{k}项是多少？",
        "类似斐波那契的数列以{a}和{b}开头，第 {k} 项是多少？",
    ),
}  # fmt: skip


def _ordinal(rng: Random, k: int) -> str:
    return WORDS[k - 1] if k <= len(WORDS) and rng.random() < 0.4 else ORDINALS[k - 1]


def _listed(rng: Random, start: int, step: int, language: Language) -> str:
    count = rng.randint(3, 5)
    comma = ", " if language == "en" or rng.random() < 0.3 else "，"
    return comma.join(str(start + step * i) for i in range(count))


def _reply(kind: str, question: str, lines: list[str], answer: int, language: Language,
           key: Key, name: str) -> Problem:  # fmt: skip
    text = f"{name} is {answer}." if language == "en" else f"{name}是{answer}。"
    reply = boxed(answer, text, language)
    return Problem(kind, language, question, "\n".join(lines), reply, str(answer), key)


def _arithmetic(rng: Random, language: Language) -> Problem:
    """Term k of an arithmetic sequence, from its first terms or from its step."""
    zh = language == "zh"
    start, step, k = rng.randint(1, 60), rng.randint(2, 9), rng.randint(4, 12)
    ordinal = _ordinal(rng, k)
    lines = []
    if rng.random() < 0.6:
        shown = _listed(rng, start, step, language)
        shown += "……" if zh else ", ..."
        question = rng.choice(TERM_OF_LIST[language]).format(s=shown, t=ordinal, k=k)
        lines.append(
            ("公差：" if zh else "Difference: ") + compact_difference(start + step, start, language)
        )
    else:
        question = rng.choice(TERM_OF_STEP[language]).format(a=start, d=step, t=ordinal, k=k)
    lines.append(f"{'几步' if zh else 'Steps'}{'：' if zh else ': '}{k}-1={k - 1}")
    lines.append(f"{k - 1}×{step}={(k - 1) * step}")
    lines.append(compact_sum(start, (k - 1) * step, language))
    name = f"第{k}项" if zh else f"Term {k}"
    answer = start + (k - 1) * step
    return _reply("sequence", question, lines, answer, language, ("seq", start, step), name)


def _next(rng: Random, language: Language) -> Problem:
    """The term after those shown."""
    zh = language == "zh"
    start, step = rng.randint(1, 60), rng.randint(2, 12)
    shown = _listed(rng, start, step, language)
    last = start + step * (len(shown.replace("，", ",").split(",")) - 1)
    question = rng.choice(NEXT[language]).format(s=shown)
    lines = [
        ("公差：" if zh else "Difference: ") + compact_difference(start + step, start, language),
        ("下一项：" if zh else "Next: ") + compact_sum(last, step, language),
    ]
    name = "下一项" if zh else "The next term"
    return _reply("sequence", question, lines, last + step, language, ("seq", start, step), name)


def _fibonacci(rng: Random, language: Language) -> Problem:
    """Term k when each term is the sum of the two before."""
    small = rng.random() < 0.5
    a, b = (rng.randint(1, 9 if small else 60) for _ in range(2))
    k = rng.randint(4, 12 if small else 9)
    question = rng.choice(FIBONACCI[language]).format(a=a, b=b, t=_ordinal(rng, k), k=k)
    lines, key = [], ("fib", a, b)
    for term in range(3, k + 1):
        label = f"Term {term}: " if language == "en" else f"第{term}项："
        lines.append(label + compact_sum(a, b, language))
        a, b = b, a + b
    name = f"Term {k}" if language == "en" else f"第{k}项"
    return _reply("sequence", question, lines, b, language, key, name)


def sequence(rng: Random, language: Language) -> Problem:
    """A question about a sequence, of any of the three sorts."""
    return rng.choices((_arithmetic, _next, _fibonacci), (4, 2, 4))[0](rng, language)


SOLVE = {
    "en": (
        "Solve {e}.", "Solve {e} for {v}.", "Solve for {v}: {e}", "Find {v} if {e}.",
        "If {e}, what is {v}?", "What is {v} if {e}?", "{e}. What is {v}?", "{e}, find {v}",
        "{e}, {v} = ?", "Find the value of {v}: {e}", "Given {e}, find {v}.", "{e}",
        "What value of {v} solves {e}?", "Work out {v} when {e}.", "Let {e}. Find {v}.",
        "Solve the equation {e}.", "Please solve {e}.", "Determine {v}: {e}",
    ),
    "zh": (
        "解方程 {e}", "解方程：{e}", "解方程{e}。", "如果 {e}，{v} 等于多少？", "已知{e}，求{v}。",
        "求{v}：{e}",
        "{e}，{v}=?", "{e}，求 {v} 的值。", "方程 {e} 的解是多少？", "若{e}，则{v}是多少？",
    ),
}  # fmt: skip


def equation(rng: Random, language: Language) -> Problem:
    """One unknown: x+a=b, x-a=b, a-x=b, ax=b, ax+b=c or ax-b=c, in any of several letters."""
    v = "x" if rng.random() < 0.6 else rng.choice("ynamtzkpw")
    shape = rng.choice(("plus", "minus", "from", "times", "times_plus", "times_minus",
                        "times_plus", "times_minus"))  # fmt: skip
    lines: list[str] = []
    if shape.startswith("times"):
        factor, x = rng.randint(2, 9), rng.randint(1, 12)
        other = rng.randint(1, 60) if rng.random() < 0.8 else rng.randint(1, 9)
        product = factor * x
        key: Key = ("equation", factor, other, x)
        if shape == "times_plus":
            right = product + other
            left = f"{other}+{factor}{v}" if rng.random() < 0.15 else f"{factor}{v}+{other}"
            lines.append(f"{factor}{v}={right}-{other}")
            lines.append(compact_difference(right, other, language))
        elif shape == "times_minus":
            other = rng.randint(1, max(1, product - 1)) if other >= product else other
            right = product - other
            key = ("equation", factor, other, x)
            left = f"{factor}{v}-{other}"
            lines.append(f"{factor}{v}={right}+{other}")
            lines.append(compact_sum(right, other, language))
        else:
            right, left, key = product, f"{factor}{v}", ("equation", factor, x)
        lines += [f"{factor}{v}={product}", f"{product}÷{factor}={x}"]
    else:
        x = rng.randint(1, 99)
        if shape == "plus":
            other = rng.randint(1, 99)
            right = x + other
            left = f"{other}+{v}" if rng.random() < 0.25 else f"{v}+{other}"
            lines += [f"{v}={right}-{other}", compact_difference(right, other, language)]
        elif shape == "minus":
            other = rng.randint(1, x)
            right, left = x - other, f"{v}-{other}"
            lines += [f"{v}={right}+{other}", compact_sum(right, other, language)]
        else:
            other = rng.randint(x, 99)
            right, left = other - x, f"{other}-{v}"
            lines += [f"{v}={other}-{right}", compact_difference(other, right, language)]
        key = pair_key(other, right)
    lines.append(f"{v}={x}")
    shown = f"{left}={right}"
    if rng.random() < 0.6:
        for sign in "+-=":
            shown = shown.replace(sign, f" {sign} ")
    question = rng.choice(SOLVE[language]).format(e=shown, v=v)
    text = f"{v} = {x}." if language == "en" else f"{v}={x}。"
    reply = boxed(x, text, language)
    return Problem("equation", language, question, "\n".join(lines), reply, str(x), key)
