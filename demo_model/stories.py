"""Word problems of one to three steps, written from fragments in English and Chinese."""

from collections.abc import Callable
from random import Random

from demo_model.arithmetic import Language, compact_difference, compact_sum
from demo_model.problem import Key, Problem, pair_key
from demo_model.story_text import (
    ASKS,
    GAINS,
    GROUPS,
    LOSSES,
    MANY_OF_ONE,
    NAMES,
    OBJECTS,
    OPENINGS,
    TWO_PRICES,
    ZH_ASKS,
    ZH_GAINS,
    ZH_GROUPS,
    ZH_LOSSES,
    ZH_NAMES,
    ZH_OBJECTS,
    ZH_OPENINGS,
)
from demo_model.sums import boxed


class _Story:
    """Question fragments and trace lines that grow together around a running total."""

    def __init__(self, language: Language) -> None:
        self.language: Language = language
        self.text: list[str] = []
        self.lines: list[str] = []
        self.total = 0

    def start(self, amount: int) -> None:
        self.total = amount
        self.lines.append(f"Start: {amount}" if self.language == "en" else f"开始：{amount}")

    def multiply(self, a: int, b: int) -> None:
        self.total = a * b
        label = "Groups: " if self.language == "en" else "几组："
        self.lines.append(f"{label}{a}×{b}={a * b}")

    def add(self, amount: int) -> None:
        label = "Add: " if self.language == "en" else "加上："
        self.lines.append(label + compact_sum(self.total, amount, self.language))
        self.total += amount

    def take(self, amount: int) -> None:
        label = "Take away: " if self.language == "en" else "减去："
        self.lines.append(label + compact_difference(self.total, amount, self.language))
        self.total -= amount

    def problem(self, question: str, key: Key) -> Problem:
        text = "The result is {}." if self.language == "en" else "结果是{}。"
        reply = boxed(self.total, text.format(self.total), self.language)
        trace = "\n".join(self.lines)
        return Problem("word", self.language, question, trace, reply, str(self.total), key)


def _amount(rng: Random) -> int:
    return rng.randint(2, 9) if rng.random() < 0.25 else rng.randint(10, 99)


def _running(rng: Random, language: Language) -> Problem:
    """Someone has some, then gains or loses, once to three times."""
    story, zh = _Story(language), language == "zh"
    name, other = rng.sample(ZH_NAMES if zh else NAMES, 2)
    unit, thing = rng.choice(ZH_OBJECTS) if zh else ("", rng.choice(OBJECTS))
    pronoun = rng.choice((name, "He", "She", "They"))
    words = {"n": name, "m": other, "o": thing, "u": unit, "p": name}
    numbers: list[int] = []
    if rng.random() < 0.3:
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        text = [rng.choice(ZH_GROUPS if zh else GROUPS).format(a=a, b=b, **words)]
        story.multiply(a, b)
        numbers += [a, b]
    else:
        a = _amount(rng)
        text = [rng.choice(ZH_OPENINGS if zh else OPENINGS).format(a=a, **words)]
        story.start(a)
        numbers.append(a)
    changes = rng.choices((1, 2, 3), (2, 7, 1))[0] - (1 if len(numbers) == 2 else 0)
    for _ in range(max(1, changes)):
        b = _amount(rng)
        gain = rng.random() < 0.5 or story.total < 3
        if not gain and b > story.total:
            b = rng.randint(1, story.total - 1)
        events = (ZH_GAINS if gain else ZH_LOSSES) if zh else (GAINS if gain else LOSSES)
        event = rng.choice(events)
        words["p"] = rng.choice((name, pronoun)) if event.startswith("{p}") else name
        text.append(event.format(b=b, **words))
        (story.add if gain else story.take)(b)
        numbers.append(b)
    ask = rng.choice(ZH_ASKS if zh else ASKS).format(**words)
    question = "，".join(text) + "。" + ask if zh else " ".join([*text, ask])
    multiplied = story.lines[0].startswith(("Groups", "几组"))
    key: Key = ("word", *numbers)
    if not multiplied:
        key = pair_key(numbers[0], numbers[1])
    return story.problem(question, key)


def _compare(rng: Random, language: Language) -> Problem:
    """One has more or fewer than another: how many have they together?"""
    story, zh = _Story(language), language == "zh"
    name, other = rng.sample(ZH_NAMES if zh else NAMES, 2)
    unit, thing = rng.choice(ZH_OBJECTS) if zh else ("", rng.choice(OBJECTS))
    a, more = _amount(rng), rng.random() < 0.5
    b = _amount(rng) if more else rng.randint(1, a - 1)
    story.start(a)
    (story.add if more else story.take)(b)
    together = rng.random() < 0.75
    if zh:
        word = "多" if more else "少"
        first = rng.choice(("{n}有{a}{u}{o}", "{n}收集了{a}{u}{o}")).format(
            n=name, a=a, u=unit, o=thing
        )
        second = f"{other}比{name}{word}{b}{unit}"
        ask = "他们一共有多少{u}{o}？" if together else "{m}有多少{u}{o}？"
        question = f"{first}，{second}。{ask.format(u=unit, o=thing, m=other)}"
    else:
        word = "more" if more else "fewer"
        first = rng.choice(("{n} has {a} {o}.", "{n} owns {a} {o}.", "{n} found {a} {o}."))
        second = rng.choice(
            ("{m} has {b} {w} than {n}.", "{m} has {b} {w}.", "{m} has {b} {w} {o}.")
        )
        if together:
            ask = rng.choice(
                (
                    "How many {o} do they have together?",
                    "How many do they have in all?",
                    "How many {o} do they have altogether?",
                    "How many in total?",
                )
            )
        else:
            ask = "How many {o} does {m} have?"
        question = f"{first} {second} {ask}".format(n=name, m=other, a=a, b=b, o=thing, w=word)
    if together:
        story.add(a)
    return story.problem(question, pair_key(a, b))


def _shop(rng: Random, language: Language) -> Problem:
    """Two prices and the change from a note, or several of one thing."""
    story, zh = _Story(language), language == "zh"
    name = rng.choice(ZH_NAMES if zh else NAMES)
    note = rng.choice((20, 50, 100))
    if rng.random() < 0.5:
        a = rng.randint(2, note - 4)
        b = rng.randint(2, note - a)
        key = pair_key(a, b)
        story.start(a)
        story.add(b)
        if zh:
            one, two = rng.sample(("一本书", "一支笔", "一个杯子", "一顶帽子", "一个玩具"), 2)
            question = f"{one}{a}元，{two}{b}元。{name}各买一件，付了{note}元，应找回多少元？"
        else:
            one, two = rng.sample(("book", "pen", "cup", "hat", "toy", "bag", "ball", "cake"), 2)
            question = rng.choice(TWO_PRICES).format(x=one, y=two, a=a, b=b, c=note, n=name)
    else:
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        note = note if note >= a * b else 100
        key = ("word", a, b, note)
        story.multiply(a, b)
        if zh:
            thing = rng.choice(("书", "笔", "杯子", "票", "玩具"))
            question = f"{name}买了{a}个{thing}，每个{b}元，付了{note}元，应找回多少元？"
        else:
            thing = rng.choice(("books", "pens", "cups", "tickets", "toys", "cakes"))
            question = rng.choice(MANY_OF_ONE).format(n=name, a=a, b=b, c=note, x=thing)
    label = "Pay: " if not zh else "付："
    spent = story.total
    story.total = note
    story.lines.append(f"{label}{note}")
    story.take(spent)
    return story.problem(question, key)


def _people(rng: Random, language: Language) -> Problem:
    """A bus or a room that people enter and leave."""
    story, zh = _Story(language), language == "zh"
    a, off, on = rng.randint(10, 99), 0, _amount(rng)
    off = rng.randint(1, a - 1)
    story.start(a)
    leave_first = rng.random() < 0.5
    if zh:
        place = rng.choice(("公交车上", "教室里", "图书馆里", "火车上", "公园里"))
        moves = [f"离开了{off}人", f"又来了{on}人"]
        moves = moves if leave_first else moves[::-1]
        question = f"{place}有{a}人，{'，'.join(moves)}。现在有多少人？"
    else:
        place, out, come = rng.choice(
            (
                ("on a bus", "get off", "get on"),
                ("in a room", "leave", "come in"),
                ("in the library", "go home", "arrive"),
                ("on a train", "get off", "get on"),
                ("in the park", "leave", "arrive"),
                ("in a shop", "walk out", "walk in"),
            )
        )
        moves = [f"{off} {out}", f"{on} {come}"]
        moves = moves if leave_first else moves[::-1]
        join = rng.choice((" and then ", ", then ", " and "))
        who = rng.choice(("people", "children", "students"))
        question = f"There are {a} {who} {place}. {join.join(moves)}. How many {who} are there now?"
    for leaving in (leave_first, not leave_first):
        (story.take if leaving else story.add)(off if leaving else on)
    return story.problem(question, pair_key(a, off if leave_first else on))


SHAPES: tuple[tuple[Callable[[Random, Language], Problem], int], ...] = (
    (_running, 6), (_compare, 2), (_shop, 2), (_people, 1),
)  # fmt: skip


def word(rng: Random, language: Language) -> Problem:
    """A word problem of any shape."""
    shapes = [shape for shape, _ in SHAPES]
    return rng.choices(shapes, [weight for _, weight in SHAPES])[0](rng, language)
