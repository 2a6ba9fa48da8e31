"""Finds the answer in a reply's content, by the form in which the preset asks for it. Pure.

Every finder reads the content once, left to right, in linear time whatever it holds: the text comes
from a model and may be hostile. None of them raises. Whether two answers are the same is told by
`serve.equivalence`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Literal

import msgspec

AnswerForm = Literal["boxed", "choice", "json", "code", "none"]


def extract_answer(content: str, form: AnswerForm) -> str | None:
    """The answer that `content` (a reply without its trace) ends with; None without one.

    - `boxed`: what the last complete `\\boxed{…}` or `\\fbox{…}` that isn't blank holds.
    - `choice`: a letter A-J, from the last statement of a choice; None when it names several.
    - `json`: the content as a whole, or the last JSON in a fence, or the last object or array;
      keys sorted, no white space, each number in one spelling (`1.0` is `1`).
    - `code`: the body of the last complete fenced block, without white space at its lines' ends.
    - `none`: the content without the white space around it.
    """
    match form:
        case "boxed":
            box = _last_box(content)
            return box and box[1]
        case "choice":
            return _choice(content)
        case "json":
            return _json(content)
        case "code":
            blocks = [body for _, body in _fenced_blocks(content)]
            return _trim_lines(blocks[-1]) if blocks else None
        case "none":
            return content.strip() or None


_BOX_TOKEN = re.compile(r"\\{1,4}(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def _last_box(text: str) -> tuple[int, str] | None:
    """Where the last complete box begins, and its contents. The last is the one opened last, so of
    two nested boxes the inner. `\\{` and `\\}` are letters, not braces."""
    open_groups: list[tuple[int, int] | None] = []  # a box's beginning and end of `{`, or a `{`
    last: tuple[int, str] | None = None
    for token in _BOX_TOKEN.finditer(text):
        if token[0] == "}":
            box = open_groups.pop() if open_groups else None
            if box and (last is None or box[0] > last[0]):
                body = text[box[1] : token.start()].strip()
                last = (box[0], body) if body else last
        elif token[0].endswith("{") and token[0] != r"\{":
            is_box = token[0] != "{"
            open_groups.append(token.span() if is_box else None)
    return last


_LETTER = (
    r"(?:[A-HJ]|I(?!\s[a-z])|[a-j](?=[^\S\n]*(?:[).\]*}$。]|$)))"
    r"(?![A-Za-z0-9_'’+#(=^]|\\[^)\]]|\s?[=<>+]|-\w)"
)
_OPENING = r"(?:[\s*_\[($“\"{:：是为]|选(?!项)|\\(?:text(?:bf)?|math(?:rm|bf)|\()){0,12}+"
_ALSO = r"(?P<also>[\s*_$)}\]]{0,6}(?:and|or|和|或|与|[,、/&])\s{0,2}[*_($\[]{0,4}[A-J]\b)?"
_STATEMENT = re.compile(
    r"(?:(?i:\b(?:answer|correct (?:option|choice|letter))\b(?:\s+(?:is|was|would be|should be))?"
    r"|\b(?:choose|choosing|select|pick))"
    r"|答案|正确(?:的)?(?:选项|答案)|(?<!不)(?<!不能)(?<!不应)(?<!不该)选择?)"
    rf"{_OPENING}(?i:(?:the )?(?:option|choice|letter)|选项)?{_OPENING}"
    rf"(?P<letter>{_LETTER}){_ALSO}",
    re.MULTILINE,
)
_VERDICT = re.compile(
    r"(?:\b(?i:option|choice)\s|选项)?[*(]{0,3}(?<![A-Za-z0-9_])(?P<letter>[A-J])[*)]{0,3}"
    r"(?:\s(?i:is\s(?:the\s)?(?:correct|right)\b)|\s?(?:是|为)?正确)"
)
_LONE_LETTER = re.compile(r"(?<![A-Za-z0-9])[A-Ja-j](?![A-Za-z0-9])")
_ONLY = re.compile(rf"{_OPENING}(?P<letter>[A-Ja-j])(?:[\s*_)\]$}}.。]{{0,8}}|[).:：、][^\n]*)")


def _choice(content: str) -> str | None:
    """`A` to `J`: from the last box, sentence or closing line that states a choice."""
    found: list[tuple[int, str | None]] = [
        (match.end(), None if match.groupdict().get("also") else match["letter"].upper())
        for pattern in (_STATEMENT, _VERDICT)
        for match in pattern.finditer(content)
    ]
    if (box := _last_box(content)) and _LONE_LETTER.search(box[1]):
        only = _ONLY.fullmatch(box[1])
        found.append((box[0] + len(box[1]), only and only["letter"].upper()))
    text = content.strip()
    line = text[text.rfind("\n") + 1 :].strip()
    only = _ONLY.fullmatch(line)
    if only and (line == text or len(re.sub(r"\W", "", line)) == 1):
        found.append((len(content), only["letter"].upper()))
    return max(found, key=lambda place: place[0])[1] if found else None


def _fenced_blocks(content: str) -> Iterator[tuple[str, str]]:
    """(language, body) of every complete fenced code block (CommonMark 0.31, section 4.5), indented
    by any amount, since models put blocks into lists."""
    fence = language = ""
    indent, body = 0, list[str]()
    for line in content.replace("\r\n", "\n").split("\n"):
        text = line.lstrip(" \t")
        if not fence:
            mark = text[:1]
            length = len(text) - len(text.lstrip(mark)) if mark in ("`", "~") else 0
            language = text[length:].strip()
            if length >= 3 and not (mark == "`" and "`" in language):
                fence, indent, body = mark * length, len(line) - len(text), []
        elif text.startswith(fence) and not text.strip(fence[0] + " \t"):
            yield language.lower(), "\n".join(body)
            fence = ""
        else:
            body.append(line[min(indent, len(line) - len(text)) :])


def _trim_lines(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def _json(content: str) -> str | None:
    if (whole := canonical_json(content)) is not None:
        return whole
    fenced = [body for language, body in _fenced_blocks(content) if language in ("", "json")]
    for text in (*reversed(fenced), *reversed(_containers(content))):
        if (value := canonical_json(text)) is not None:
            return value
    return None


_ENCODER = msgspec.json.Encoder(order="sorted", decimal_format="number")
MAX_ZEROS = 20
"""A number that ends in more zeros keeps an exponent, so that none is written out at length."""


def canonical_json(text: str) -> str | None:
    """The JSON value in the one spelling that its equals share. None if `text` isn't JSON, nests
    deeper than the stack, or holds a lone surrogate or a number too large for `Decimal`."""
    try:
        value = json.loads(
            text, parse_int=_number, parse_float=_number, parse_constant=_no_constant
        )
        return _ENCODER.encode(value).decode()
    except (ValueError, ArithmeticError, RecursionError):
        return None


def _number(text: str) -> Decimal:
    """Exact and in one form for each value; `Decimal.normalize` would round to its context."""
    sign, digits, exponent = Decimal(text).as_tuple()
    if not isinstance(exponent, int):
        raise ValueError("a number became infinite")
    written = "".join(map(str, digits))
    significant = written.rstrip("0")
    if not significant:
        return Decimal(0)
    exponent += len(written) - len(significant)
    if 0 < exponent <= MAX_ZEROS:
        significant, exponent = significant + "0" * exponent, 0
    return Decimal(f"{'-' * sign}{significant}e{exponent}")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


_BRACKET = re.compile(r"[\[{]")
_JSON_TOKEN = re.compile(
    r'[ \t\n\r]*(?:(?P<mark>[\[\]{}:,])|(?P<string>"(?:[^"\\\n]|\\.)*")'
    r"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null)"
)
_FOLLOWS = {
    "[": "[{sv]", "[,": "[{sv", "[v": ",]",
    "{": "s}", "{,": "s", "{s": ":", "{:": "[{sv", "{v": ",}",
}  # fmt: skip
"""In an array or object after a token → what may come: a mark, a (s)tring, another (v)alue."""


def _containers(text: str) -> list[str]:
    """The outermost objects and arrays, as far as their marks tell, in order.

    One walk over the tokens; a token that can't be there drops all that is open, so what a broken
    container holds is not offered. Linear: strings are looked for inside containers only, and where
    one doesn't end on its line, none that begins later on that line does.
    """
    found, at = list[str](), 0
    while bracket := _BRACKET.search(text, at):
        states, at = [bracket[0]], bracket.end()
        while states and (token := _JSON_TOKEN.match(text, at)):
            kind = token["mark"] or ("s" if token["string"] else "v")
            if kind not in _FOLLOWS[states[-1]]:
                break
            at = token.end()
            if kind in ("[", "{"):
                states.append(kind)
                continue
            if kind in ("]", "}"):
                states.pop()
            if states:
                states[-1] = _after(states[-1], kind)
        if not states:
            found.append(text[bracket.start() : at])
    return found


def _after(state: str, kind: str) -> str:
    is_key = kind == "s" and state in ("{", "{,")
    return state[0] + (kind if is_key or kind in (",", ":") else "v")
