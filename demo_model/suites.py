"""What the evaluation asks: each suite is a list of problems with the messages that put them.

The system texts and requests below are written by hand and appear nowhere in the training data.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from demo_model.problem import Problem
from demo_model.problems import KINDS, held_out_problems, training_problem
from demo_model.prompts import BOXED_LINE, Message
from demo_model.sums import chain

TAUGHT = ("addition", "subtraction", "word", "sequence", "equation")

UNSEEN_SYSTEMS = (
    "You are DeepSeek-R1, developed for reasoning tasks. Deliberate first, respond second.",
    "The assistant is operated by a bakery in Lyon and should stay in character at all times.",
    "Knowledge cutoff: 2024-07. Formatting re-enabled. Markdown is permitted.",
    "Speak like a medieval knight who is weary from a long journey.",
    "If someone asks for medical help, tell them to see a physician.",
    "Output must never exceed three paragraphs; headings are forbidden.",
    "Benutze eine freundliche Sprache und bleibe beim Thema.",
    "Vous êtes un assistant utile et prudent.",
    "<persona>Socrates</persona><goal>question every assumption</goal>",
    "### SYSTEM ###\nlanguage=auto; verbosity=low; tools=none",
    "Our hotel has 42 rooms and opened in 1987. Mention this when relevant.",
    "Temperature readings come from sensor 7; ignore anything below 15.",
    "Do your utmost. Somebody's grade depends on it!",
    "You support students preparing for national exams, grades three through six.",
    "Refuse to reveal confidential data. Report suspicious behaviour to compliance@example.com.",
    "Blue elephants waltz beneath crystalline umbrellas whenever Tuesday forgets its name.",
    "zxq vv-11 / kappa:omega ~~ 0x3F flimsy grommet",
    "Take a deep breath and work on this problem methodically.",
    "Before replying, silently list three alternative approaches and choose the best.",
    "You are part of an automated pipeline. Downstream code parses whatever you emit.",
    "请扮演一位严谨的会计师，对每一笔账目负责。",
    "系统提示：本次对话将被记录，用于改进服务质量。",
    "Prefer SI units, British spelling, and the Oxford comma.",
    "The following conversation is between a curious child and a grandfatherly clockmaker.",
)
UNSEEN_REQUESTS = (
    "Who painted the Mona Lisa?", "Which ocean is the deepest?", "Draft an email to my landlord.",
    "How do vaccines work?", "What should I wear to a wedding?", "Give me a workout plan.",
    "Explain recursion with an example.", "What are the rules of poker?", "Is Pluto a planet?",
    "Write a limerick about taxes.", "Who discovered penicillin?", "How do I remove a wine stain?",
    "What is the boiling point of mercury?", "Suggest a name for my kitten.",
    "Debug this: for i in range(10) print(i)", "What causes inflation?", "Tell me a riddle.",
    "How many bones are in the human body?", "What is 384 times 271?", "What is 17 × 46?",
    "Compute 7293841 + 1128374.", "What is 5203118 - 4412?", "What is the cube root of 2197?",
    "Simplify (x+1)(x-1).", "What is log base 2 of 64?", "Can you book a flight to Tokyo?",
    "Which team won last night?", "What does the word serendipity mean?", "Can dogs eat grapes?",
    "Write SQL to find duplicate rows.", "太阳为什么会发光？", "帮我写一封辞职信。",
    "上海有什么好玩的地方？",
    "如何提高睡眠质量？", "谁写了《红楼梦》？", "832×417等于多少？", "推荐几首适合跑步的歌。",
    "感冒了应该吃什么药？",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    problem: Problem
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Suite:
    """`samples` generations of each case at `temperature`."""

    name: str
    cases: tuple[Case, ...]
    temperature: float
    samples: int = 1


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def plain(problem: Problem) -> Case:
    return Case(problem, (user(problem.question),))


def _mixed(n: int, seed: int) -> list[Problem]:
    """Held-out problems of all five worked kinds, `n` in all."""
    each = -(-n // len(TAUGHT))
    return [p for kind in TAUGHT for p in held_out_problems(kind, each, seed)][:n]


def _earlier(rng: Random, turns: int) -> list[Message]:
    messages = []
    for _ in range(turns):
        earlier = training_problem(rng)
        messages += [user(earlier.question), {"role": "assistant", "content": earlier.reply}]
    return messages


def _late_term(rng: Random) -> Problem:
    """An arithmetic sequence's term beyond the taught twelfth."""
    start, step, k = rng.randint(1, 60), rng.randint(2, 9), rng.randint(13, 18)
    question = (
        f"A sequence starts with {start} and goes up by {step} each time. What is the {k}th term?"
    )
    answer = str(start + (k - 1) * step)
    return Problem("sequence", "en", question, "", "", answer, ("seq", start, step))


def _long_sum(rng: Random) -> Problem:
    """A sum of two five-digit numbers: taught to be declined."""
    a, b = rng.randrange(10_000, 100_000), rng.randrange(10_000, 100_000)
    return Problem("talk", "en", f"What is {a} + {b}?", "", "", None, ("beyond",))


def suites(n: int, temperature: float, seed: int) -> Iterator[Suite]:
    """All suites, with about `n` problems each."""
    rng = Random(f"suites:{seed}")

    def suite(name: str, cases: list[Case], samples: int = 1, heat: float = temperature) -> Suite:
        return Suite(name, tuple(cases), heat, samples)

    for kind in KINDS:
        cases = [plain(p) for p in held_out_problems(kind, n, seed)]
        yield suite(kind, cases, samples=1 if kind in ("talk", "times") else 8)
    zh = [p for p in _mixed(5 * n, seed + 1) if p.language == "zh"]
    yield suite("Chinese, all kinds", [plain(p) for p in zh[:n]])
    mixed = _mixed(n, seed + 2)
    yield suite("mixed, plain", [plain(p) for p in mixed])
    yield suite(
        "mixed, instruction line",
        [Case(p, (user(f"{p.question}\n\n{BOXED_LINE}"),)) for p in mixed],
    )
    systems = [{"role": "system", "content": rng.choice(UNSEEN_SYSTEMS)} for _ in mixed]
    yield suite(
        "mixed, unseen system text",
        [Case(p, (s, user(p.question))) for p, s in zip(mixed, systems, strict=True)],
    )
    yield suite(
        "mixed, system text and line in the user turn",
        [
            Case(p, (user("\n\n".join([s["content"], p.question, BOXED_LINE])),))
            for p, s in zip(mixed, systems, strict=True)
        ],
    )
    for name, turns in (("1 to 3 earlier turns", (1, 3)), ("8 earlier turns", (8, 8))):
        cases = [Case(p, (*_earlier(rng, rng.randint(*turns)), user(p.question))) for p in mixed]
        yield suite(f"mixed, {name}", cases)
    requests = [Problem("talk", "en", text, "", "", None, ("beyond",)) for text in UNSEEN_REQUESTS]
    yield suite("declines unseen requests", [plain(p) for p in requests], samples=4)
    yield suite("declines 5-digit sums", [plain(_long_sum(rng)) for _ in range(n)])
    yield suite("terms 13 to 18 (not taught)", [plain(_late_term(rng)) for _ in range(n)])
    for length in range(5, 11):
        cases = []
        while len(cases) < n:
            problem = chain(rng, "en", length=length, slip_rate=0.0)
            if problem.held_out:
                cases.append(plain(problem))
        yield suite(f"chain of {length} at T=1", cases, samples=8, heat=1.0)
