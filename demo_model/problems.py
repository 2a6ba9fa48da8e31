"""The taught kinds of problem, and the streams of them: for training, and held out.

Pure Python, so that evaluation and tests need no torch. Everything random comes from the `Random`
that is passed in: the same state gives the same problems.
"""

from collections.abc import Callable
from random import Random

from demo_model.answers import extract_boxed
from demo_model.arithmetic import Language
from demo_model.patterns import equation, sequence
from demo_model.problem import Problem
from demo_model.stories import word
from demo_model.sums import addition, chain, subtraction, times
from demo_model.talk import talk

__all__ = ["KINDS", "Problem", "extract_boxed", "held_out_problems", "training_problem"]

Maker = Callable[[Random, Language], Problem]

# kind → (maker, share of the training problems)
KINDS: dict[str, tuple[Maker, float]] = {
    "addition": (addition, 0.14),
    "subtraction": (subtraction, 0.17),
    "word": (word, 0.19),
    "sequence": (sequence, 0.15),
    "equation": (equation, 0.14),
    "talk": (talk, 0.08),
    "chain": (chain, 0.11),
    "times": (times, 0.02),
}
CHINESE_SHARE = 0.23


def _language(rng: Random) -> Language:
    return "zh" if rng.random() < CHINESE_SHARE else "en"


def training_problem(rng: Random, shares: dict[str, float] | None = None) -> Problem:
    """The next problem of the training stream: never a held-out one.

    `shares` replaces the kinds' usual shares (they need not sum to one).
    """
    kinds = tuple(KINDS)
    weights = [(shares or {}).get(kind, KINDS[kind][1]) for kind in kinds]
    while True:
        kind = rng.choices(kinds, weights)[0]
        problem = KINDS[kind][0](rng, _language(rng))
        if not problem.held_out:
            return problem


def held_out_problems(kind: str, n: int, seed: int) -> list[Problem]:
    """`n` problems of `kind` whose operands the training stream never contains.

    Chains come without slips, so that their answers are right. Talk and the times table have no
    operands to hold out: there the training stream's own problems come back.
    """
    rng = Random(f"held-out:{kind}:{seed}")
    found: list[Problem] = []
    while len(found) < n:
        language = _language(rng)
        if kind == "chain":
            problem = chain(rng, language, slip_rate=0.0)
        else:
            problem = KINDS[kind][0](rng, language)
        if problem.held_out or kind in ("talk", "times"):
            found.append(problem)
    return found
