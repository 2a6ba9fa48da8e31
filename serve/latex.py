"""Takes from an answer what only typesets it, so that one answer reads one way. Pure.

Unicode becomes half-width, its signs become LaTeX's (`½`, `²`, `π`, `，`); math shifts, sizes and
fonts go (`$…$`, `\\left`, `\\text{…}`); of several spellings one is left: `\\dfrac12` becomes
`\\frac{1}{2}`.
Reading the result is up to `serve.quantity` and `serve.equivalence`.
"""

from __future__ import annotations

import re
import unicodedata


def plain_text(answer: str) -> str:
    """The answer without what only typesets it, in one spelling of Unicode and of LaTeX."""
    text = _VULGAR_AFTER_DIGIT.sub(r"\1 \2", answer)
    text = _RADICAL.sub(r"\\sqrt{\1}", text)
    text = _SUPERSCRIPT.sub(r"^{\g<0>}", text)
    text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    if len(_MATH_SHIFT.findall(text)) % 2 == 0:  # an odd one is a price
        text = _MATH_SHIFT.sub("", text)
    text = _MACRO.sub(lambda macro: _MACROS.get(macro[0], macro[0]), text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text.strip()


_VULGAR_AFTER_DIGIT = re.compile("([0-9])([¼-¾⅐-⅞])")
_RADICAL = re.compile("√([0-9]+|[a-zA-Z])")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴-⁹⁺⁻ⁿ]+")
_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "⁄": "/", "÷": "/", "×": "*", "·": "*", "⋅": "*", "∶": ":", "、": ", "}
    | {"π": r"\pi ", "∞": r"\infty ", "±": r"\pm ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne "}
    | {"∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "√": r"\sqrt "}
)
_MATH_SHIFT = re.compile(r"(?<!\\)\$")
_MACRO = re.compile(r"\\(?:[a-zA-Z]+|.)", re.DOTALL)
_MACROS = (
    dict.fromkeys((r"\,", r"\;", r"\:", r"\>", r"\ ", r"\quad", r"\qquad", r"\rm", r"\bf"), " ")
    | dict.fromkeys((r"\left", r"\right", r"\big", r"\Big", r"\bigl", r"\bigr", r"\Bigl"), "")
    | dict.fromkeys((r"\Bigr", r"\!", r"\(", r"\)", r"\[", r"\]", r"\displaystyle", r"\limits"), "")
    | dict.fromkeys((r"\dfrac", r"\tfrac", r"\cfrac"), r"\frac")
    | dict.fromkeys((r"\cdot", r"\times", r"\ast"), "*")
    | dict.fromkeys((r"\circ", r"\degree"), "°")
    | {r"\leq": r"\le", r"\geq": r"\ge", r"\neq": r"\ne", r"\lt": "<", r"\gt": ">", r"\div": "/"}
    | {r"\lbrace": r"\{", r"\rbrace": r"\}", r"\varnothing": r"\emptyset", r"\lor": " or "}
    | {r"\%": "%", r"\$": "$", r"\_": "_", r"\&": "&", r"\yen": "¥", r"\pounds": "£"}
)
_UPRIGHT = r"\\(?:text|math)(?:rm|bf|it|sf|tt|normal)?|\\(?:[mh]box|boldsymbol|operatorname)"
_SYMBOL = r"\\(?!sqrt|frac|[dtc]frac|left|text|math)[a-zA-Z]+"
_GROUP = r"\{(?:[^{}]|\{[^{}]*\})*\}"
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"(?:{_UPRIGHT}) ?\{{([^{{}}]*)\}}", r" \1 "),
        (rf"(?:{_UPRIGHT}) ?\{{([^{{}}]*)\}}", r" \1 "),  # once more: they may be nested
        (r"(?<=[0-9])\{,\}(?=[0-9]{3}(?![0-9]))", ""),
        (r"[\s~]+", " "),
        (r"(?<!,) ?([-+*/^=<>|:&_%]) ?", r"\1"),
        (r"(?<=[(\[{]) | (?=[)\]}{,;])", ""),
        (r"\^\{?°\}?", "°"),
        (r" ?° ?([CF])\b", r"°\1"),
        (r"\^(-?[0-9]+|[a-zA-Z])", r"^{\1}"),
        (r"_([0-9a-zA-Z])", r"_{\1}"),
        (r"\\(frac|sqrt) ?([0-9])", r"\\\1{\2}"),
        (rf"\\(frac|sqrt) ([a-zA-Z])|\\(frac|sqrt) ?({_SYMBOL}) ?", r"\\\1\3{\2\4}"),
        (rf"(\\frac{_GROUP}) ?([0-9a-zA-Z]|{_SYMBOL})", r"\1{\2}"),
        (r"\\\{\\\}", r"\\emptyset"),
    )
]
