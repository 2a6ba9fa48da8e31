"""Whether two answers are the same, by keys that equal answers share. Pure.

`normalise` gives an answer's key, `group` the groups of a whole vote. For `boxed` answers the key's
value is an exact fraction, or text in one spelling (`serve.latex`), its words in lower case.
Solutions (`1, 2`, `x=1 or x=2`, `\\{1,2\\}`, `\\pm 1`) are put in one order; pairs and intervals
keep theirs. No algebra is done; `is_open` tells which pairs `serve.symbolic` may try.

An answer may leave two things out: its unit, and what it is the value of (`x=`). So `5` is the same
as `5 cm` and as `x=5`, but `5 cm` isn't `5 m`, and `x=5` isn't `y=5`. That isn't transitive, hence
`group`: an answer that leaves something out goes with the most frequent answer that it fits, or
with the earliest of these. Likewise `50%` is one half, but fifty where some say 50 and none ½.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

from serve.answer import AnswerForm, canonical_json
from serve.latex import plain_text
from serve.quantity import FIRST_CJK, PERCENT, read_quantity, split_unit

MAX_LENGTH = 500
"""A longer answer is compared as it stands. It also bounds the numbers: Python reads no more than
4300 digits."""
MAX_NESTING = 8

_AROUND = ' \n"“”'
_ENDS = ".,;:。"

_NAME = re.compile(
    r"(\\[a-zA-Z]+|(?:\\(?:angle|triangle) ?)?[^\W\d_]+(?: [^\W\d_]+)*(?:_\{\w+\})?'{0,3}"
    r"(?:\([a-z]\))?|\([a-z](?:, ?[a-z])+\))="
)
_ENCLOSED = re.compile(r"(\\\{|[(\[{])(.*)(\\\}|(?<!\\)[)\]}])", re.DOTALL)
_MARK = re.compile(r"(?P<opening>\\\{|[(\[{])|(?P<closing>\\\}|[)\]}])|[,;和或]| (?:and|or) ")
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|in)(?![a-zA-Z])")
_GROUPED = re.compile(r"(?<=[0-9]),[0-9]{3}(?![0-9])")
_FUNCTION = re.compile(
    r"\\(?:begin|end)\{\w+\*?\}|\\[a-zA-Z]+"
    r"|(?<![a-zA-Z])(?:(?:arc)?(?:sin|cos|tan|cot|sec|csc)|log|sqrt|exp|max|min|gcd|lcm)"
)
_PROSE = re.compile(rf"[^\W\d_]{{3,}}|[{FIRST_CJK}-\U0003ffff]")
_LETTERS = re.compile(r"[^\W\d_]+(?:[ .,'’]+[^\W\d_]+)*")
_IDLE_SPACE = re.compile(
    r"(?<![^\W_]) | (?![^\W_])|(?<=[0-9]) (?=[^\W\d_])|(?<=[^\W\d_]) (?=[0-9])"
)
_DIVISION = re.compile(r"^(-?)([^-/+*=<>,]+)/([0-9]+|[a-zA-Z]|\\[a-zA-Z]+)$")
_NEGATIVE = re.compile(r"^\\frac\{-([^-+{}]*)\}")


@dataclass(frozen=True, slots=True)
class Key:
    """What an answer says. Keys of one form that are equal mean the same answer."""

    value: Fraction | str
    unit: str = ""
    name: str = ""
    """What the answer says it is the value of: `x` in `x=5`."""
    kind: Literal["number", "words", "expression"] = field(default="words", compare=False)

    @property
    def latex(self) -> str:
        """The answer without its unit, for `serve.symbolic`."""
        return f"{self.name}={self.value}" if self.name else str(self.value)

    def fits(self, other: Key) -> bool:
        """Whether the two agree on units and names, as far as both give them."""
        return (not self.unit or not other.unit or self.unit == other.unit) and (
            not self.name or not other.name or self.name == other.name
        )


def normalise(answer: str, form: AnswerForm) -> Key:
    """The key of an answer that `serve.answer` found."""
    match form:
        case "boxed":
            return _boxed(answer)
        case "json":
            return Key(canonical_json(answer) or answer.strip())
        case "choice":
            return Key(answer.strip().upper())
        case "code" | "none":
            return Key(answer.strip())


def same_answer(a: str, b: str, form: AnswerForm) -> bool:
    """Whether two answers are the same where no third has a say (see `group`)."""
    return len(set(group([a, b], form))) == 1


def is_open(a: Key, b: Key) -> bool:
    """Whether algebra could still find two differing keys equal: neither is prose, not both are
    numbers, and no units or names contradict each other."""
    kinds = (a.kind, b.kind)
    return a.value != b.value and "expression" in kinds and "words" not in kinds and a.fits(b)


def group(answers: Sequence[str], form: AnswerForm) -> list[int]:
    """A number for each answer, one for all that are the same; they count up from 0 by arrival.

    Deterministic. The order of arrival only decides between equally frequent answers.
    """
    keys = _percentages_read([normalise(answer, form) for answer in answers])
    counts = Counter(keys)
    rivals: dict[Fraction | str, list[_Group]] = {}
    found: dict[Key, _Group] = {}
    for key in sorted(counts, key=lambda key: ((not key.unit) + (not key.name), -counts[key])):
        same_value = rivals.setdefault(key.value, [])
        fitting = [one for one in same_value if one.key.fits(key)]
        if not fitting:
            fitting = [_Group(key)]
            same_value += fitting
        found[key] = max(fitting, key=lambda one: one.num_answers)
        found[key].add(key, counts[key])
    numbers: dict[int, int] = {}
    return [numbers.setdefault(id(found[key]), len(numbers)) for key in keys]


@dataclass(slots=True)
class _Group:
    key: Key
    num_answers: int = 0

    def add(self, key: Key, num_answers: int) -> None:
        unit, name = self.key.unit or key.unit, self.key.name or key.name
        self.key = replace(self.key, unit=unit, name=name)
        self.num_answers += num_answers


def _percentages_read(keys: Sequence[Key]) -> list[Key]:
    """50% as fifty, where an answer is 50 and none ½. (Not where one is 5000%, which is 50.)"""
    others = {key.value for key in keys if key.unit != PERCENT}
    percentages = {key.value for key in keys if key.unit == PERCENT}

    def read(key: Key) -> Key:
        if key.unit != PERCENT or isinstance(key.value, str) or key.value in others:
            return key
        number = key.value * 100
        return replace(key, value=number) if number in others - percentages else key

    return [read(key) for key in keys]


def _boxed(answer: str) -> Key:
    text = plain_text(answer) if len(answer) <= MAX_LENGTH else answer
    if len(text) > MAX_LENGTH:
        return Key(" ".join(answer.split()))
    return _read(text, MAX_NESTING)


def _read(text: str, nesting: int) -> Key:
    """The key of cleaned text. `nesting`: how many levels of brackets are still looked into."""
    text = text.lstrip(_AROUND).rstrip(_AROUND + _ENDS)
    name = ""
    if (named := _NAME.match(text)) and text.count("=") == 1 and not re.search("[<>]", text):
        name, text = _folded(named[1]), text[named.end() :]
    if quantity := read_quantity(text):
        return Key(*quantity, name, "number")
    if text.startswith(r"\pm") and not re.search("[-+]", text):
        text = text.removeprefix(r"\pm").strip()
        text = f"-{text},{text}"
    opening, parts, closing = _parts(text)
    if nesting and (closing or len(parts) > 1):
        return _collection(opening, [_read(part, nesting - 1) for part in parts], closing, name)
    return _expression(text, name)


def _collection(opening: str, keys: list[Key], closing: str, name: str) -> Key:
    """Pairs and intervals keep their order; solutions, and the members of a set, have none."""
    if len(keys) == 1 and opening != "[":
        return replace(keys[0], name=name or keys[0].name)
    units = {key.unit for key in keys if key.unit}
    names = {key.name for key in keys if key.name}
    if len(units) == 1:
        keys = [replace(key, unit="") for key in keys]
    if len(names) == 1 and not name:
        keys, name = [replace(key, name="") for key in keys], names.pop()
    kinds = {key.kind for key in keys}
    texts = [f"{key.latex} {key.unit}".strip() for key in keys]
    if opening not in ("(", "["):
        texts = sorted(set(texts) if opening else texts)
        opening, closing = r"\{", r"\}"
    return Key(
        opening + ",".join(texts) + closing,
        units.pop() if len(units) == 1 else "",
        name,
        "words" if "words" in kinds else "expression" if "expression" in kinds else "number",
    )


def _expression(text: str, name: str) -> Key:
    head, unit = split_unit(text)
    if _PROSE.search(_FUNCTION.sub("", head)) or _LETTERS.fullmatch(head):
        return Key(_folded(text), "", name, "words")
    head = _IDLE_SPACE.sub("", head)
    head = _DIVISION.sub(r"\1\\frac{\2}{\3}", head)
    return Key(_NEGATIVE.sub(r"-\\frac{\1}", head), unit, name, "expression")


def _folded(words: str) -> str:
    """In lower case, but for a single letter: `A` and `a` may be different things."""
    return words.casefold() if len(words) > 1 else words


def _parts(text: str) -> tuple[str, list[str], str]:
    """What commas or words set apart, between the brackets around it all ("" without any). Not
    conditions that must hold at once: `x>1 and x<3` isn't `x>1 or x<3`."""
    if " and " in text and _RELATION.search(text):
        return "", [text], ""
    enclosed = _ENCLOSED.fullmatch(text)
    if enclosed and (parts := _split(enclosed[2], has_grouped_digits=False)):
        return enclosed[1], parts, enclosed[3]
    return "", _split(text, has_grouped_digits=", " in text) or [text], ""


def _split(text: str, *, has_grouped_digits: bool) -> list[str]:
    """The parts; none at all where brackets don't balance or a part is empty."""
    parts, begin, depth = list[str](), 0, 0
    for mark in _MARK.finditer(text):
        if mark["closing"]:
            depth -= 1
            if depth < 0:
                return []
        elif mark["opening"]:
            depth += 1
        elif depth == 0 and not (has_grouped_digits and _GROUPED.match(text, mark.start())):
            parts.append(text[begin : mark.start()])
            begin = mark.end()
    parts.append(text[begin:])
    return parts if depth == 0 and all(part.strip() for part in parts) else []
