"""Numbers and units as answers write them: `1,234`, `\\frac{1}{2}`, `$5`, `5 cm`, `50%`. Pure.

Reads text that `serve.equivalence` has cleaned: half-width, LaTeX's spelling variants gone, spaces
single. Numbers become exact fractions; exponents of more than three digits are never expanded.

What follows a number is its unit when it is *plainly* one: a name in the table below, or a word
that no algebra would hold (`5 apples`, `5个苹果`). `5x`, `5 x` and `5m` are products; `5 m` and
`5m/s` aren't. Names of one unit are united (`5 metres`, `5 m`, `5米`), but nothing is converted:
`1 km` and `1000 m` differ. A word that scales the number (`million`, `万`) is part of the number.
"""

from __future__ import annotations

import re
from fractions import Fraction

PERCENT = "%"
FIRST_CJK = "\u2e80"
"""From here on Unicode has the scripts of East Asia."""

_PLAIN = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?:\ [0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
_NUMBER = re.compile(
    rf"""(?P<sign>[+-]?)(?:
      (?:(?P<whole>[0-9]+)(?:\ (?=[0-9]+/)|\ ?(?=\\frac)))?
      (?: \\frac\{{(?P<above>[+-]?{_PLAIN})\}}\{{(?P<below>[+-]?{_PLAIN})\}}
        | (?P<left>{_PLAIN})/(?P<right>{_PLAIN}) )
    | (?P<fixed>[0-9]+\.[0-9]*)\\overline\{{(?P<repeated>[0-9]+)\}}
    | (?:(?P<factor>{_PLAIN})\*)?10\^\{{(?P<power>[+-]?[0-9]{{1,3}})\}}
    | (?P<decimal>{_PLAIN})(?:[eE](?P<exponent>[+-]?[0-9]{{1,3}})(?![0-9]))? )""",
    re.VERBOSE,
)
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_SCALES |= {"trillion": 10**12, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8}
_SCALE = re.compile(
    r" ?(?:(dozen|hundred|thousand|[mb]illion|trillion)\b"
    r"|(百(?!分)|千(?![克米瓦卡焦伏帕赫])|[万亿]))",
    re.IGNORECASE,
)
MAX_SCALES = 3
MAX_UNIT_WORDS = 6
_PERCENT_SIGN = re.compile(r" ?(?:%|per ?cent)", re.IGNORECASE)
_CURRENCY = "$€£¥₹₩"
_PRICE = re.compile(
    rf"^([+-]?)(?:US|RMB)? ?([{_CURRENCY}]) ?(-?{_PLAIN}(?: (?:[mb]illion|thousand)\b)?)"
)

_NAMES = {
    "": "unit 单位 个",
    "cm": "centimeter centimetre 厘米",
    "m": "meter metre 米",
    "mm": "millimeter millimetre 毫米",
    "km": "kilometer kilometre 千米 公里",
    "dm": "分米",
    "ft": "foot feet",
    "inch": "in inches",
    "mi": "mile",
    "yd": "yard",
    "g": "gram 克",
    "kg": "kilogram 千克 公斤",
    "mg": "milligram 毫克",
    "lb": "pound lbs",
    "ton": "tonne 吨",
    "s": "sec second 秒",
    "min": "minute 分钟",
    "h": "hr hour 小时 时",
    "day": "天",
    "week": "周 星期",
    "month": "月 个月",
    "year": "yr 年",
    "L": "l liter litre 升",
    "mL": "ml milliliter millilitre 毫升",
    "°": "degree deg 度",
    "°C": "摄氏度",
    "°F": "",
    "$": "dollar usd 美元",
    "¥": "yuan rmb cny 元 人民币 块",
    "€": "euro eur 欧元",
    "£": "gbp 英镑",
    "cent": "",
    "person": "people 人",
    "N": "newton 牛 牛顿",
    "J": "joule 焦耳",
    "W": "watt 瓦",
    "V": "volt 伏",
    "A": "ampere amp 安",
    "K": "kelvin",
    "Hz": "hertz 赫兹",
    "Pa": "pascal 帕",
    "m^{2}": "平方米",
    "cm^{2}": "平方厘米",
    "km^{2}": "平方千米 平方公里",
    "m^{3}": "立方米",
    "cm^{3}": "立方厘米",
}
"""A unit → its other names, in the singular; `""` is for what says no more than "so many"."""

_SYMBOLS = (
    *("μm", "nm", "ms", "mph", "Hz", "kHz", "MHz", "GHz", "Pa", "kPa", "mA", "mV", "eV", "kJ"),
    *("cal", "kcal", "kW", "MW", "kWh", "mol", "rad", "am", "pm"),
)
_UNITS = {name: unit for unit, names in _NAMES.items() for name in (unit, *names.split())}
_UNITS |= {symbol: symbol for symbol in _SYMBOLS}
_NO_UNIT = re.compile(
    r"or|and|more|less|fewer|than|at|to|not|if|when|for|is|are|inclusive|remainder|base|point"
    r"|plus|minus|negative|times|over|choose|factorial|squared|cubed|mod|sin|cos|tan|log|sqrt"
    r"|half|halves|thirds?|quarters?|\w{2,}ths?"
    r"|one|two|three|four|five|six|seven|eight|nine|ten"
)
"""Words after which the number isn't the whole of what is said."""
_UNSURE = re.compile(r"以上|以下|以内|左右|或|多|余|至|到|分之|方$")
_PLURAL = re.compile("(?<=..[^s])s$")
_WORD = rf"(?:°[CF]?|[{_CURRENCY}]|[^\W\d_]+)(?:\^\{{-?[0-9]\}})?"
_UNIT = re.compile(rf"{_WORD}(?:[ /*]{_WORD})*")
_SQUARE = re.compile(r"\b(?:(square|sq)|cubic) ([^\W\d_]+)", re.IGNORECASE)
_PER = re.compile(r" ?(?:\bper\b|每) ?")


def read_quantity(text: str) -> tuple[Fraction, str] | None:
    """The exact number that `text` as a whole says, if it says one, and its unit ("" without one).
    A percentage is the fraction that it means, with `%` for its unit."""
    text = _PRICE.sub(r"\1\3 \2", text)
    match = _NUMBER.match(text)
    value = _value(match) if match else None
    if match is None or value is None:
        return None
    rest = text[match.end() :]
    for _ in range(MAX_SCALES):
        if scale := _SCALE.match(rest):
            value *= _SCALES[(scale[1] or scale[2]).lower()]
            rest = rest[scale.end() :]
    if _PERCENT_SIGN.fullmatch(rest):
        return value / 100, PERCENT
    unit = _plain_unit(rest) if rest else ""
    return None if unit is None else (value, unit)


def split_unit(expression: str) -> tuple[str, str]:
    """`25\\pi cm^{2}` → (`25\\pi`, `cm^{2}`). Only names of the table set off by a space are units
    here, and no letter alone: it may be a variable."""
    for space in [*re.finditer(" ", expression)][-MAX_UNIT_WORDS:]:
        head, words = expression[: space.start()], _words(expression[space.end() :])
        if not words or _is_letter(words) or not all(map(_is_known, words[::2])):
            continue
        return head, _joined(words)
    return expression, ""


def _value(match: re.Match[str]) -> Fraction | None:
    """None for a division by zero, or a whole number before what is no proper fraction."""
    part = {name: text for name, text in match.groupdict().items() if text is not None}
    if "fixed" in part:
        scale, repeated = 10 ** len(part["fixed"].partition(".")[2]), part["repeated"]
        value = Fraction(part["fixed"])
        value += Fraction(int(repeated), scale * (10 ** len(repeated) - 1))
    elif "power" in part:
        value = _decimal(part.get("factor", "1")) * Fraction(10) ** int(part["power"])
    elif "decimal" in part:
        value = _decimal(part["decimal"]) * Fraction(10) ** int(part.get("exponent", "0"))
    else:
        above = _decimal(part.get("above") or part["left"])
        below = _decimal(part.get("below") or part["right"])
        if not below or ("whole" in part and not 0 < above / below < 1):
            return None
        value = int(part.get("whole", "0")) + above / below
    return -value if part["sign"] == "-" else value


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", ""))


def _plain_unit(rest: str) -> str | None:
    """The unit that follows a number as `rest`; None where `rest` isn't plainly one."""
    words = _words(rest.strip())
    is_set_off = rest[0] == " "
    for word in words[::2]:
        if _is_known(word) or word[0] >= FIRST_CJK:
            continue
        if not (is_set_off and len(word) > 2 and word.isalpha()) or _NO_UNIT.fullmatch(
            word.lower()
        ):
            return None
    if not words or _UNSURE.search(rest) or (_is_letter(words) and not is_set_off):
        return None
    return _joined(words)


def _is_letter(words: list[str]) -> bool:
    """Whether that is one Latin letter, perhaps with an exponent."""
    base = words[0].partition("^")[0]
    return len(words) == len(base) == 1 and base.isascii() and base.isalpha()


def _is_known(word: str) -> bool:
    return _table_name(word) is not None


def _words(text: str) -> list[str]:
    """A unit's words, with a separator after each but the last; none where `text` is no unit."""
    text = _SQUARE.sub(lambda match: f"{match[2]}^{{{2 if match[1] else 3}}}", text)
    text = _PER.sub("/", text)
    return re.split("([ /*])", text) if _UNIT.fullmatch(text) else []


def _table_name(word: str) -> str | None:
    """The table's name for a word; None where it has none."""
    word, mark, power = word.partition("^")
    spellings = [word]
    if len(word) > 1:
        folded = word.lower()
        spellings += [folded, folded.removesuffix("s")]
    for spelling in spellings:
        if (unit := _UNITS.get(spelling)) is not None:
            return unit and unit + mark + power
    return None


def _joined(words: list[str]) -> str:
    """One spelling of a unit: the table's names, other words in lower case and the singular."""
    unit = ""
    for separator, word in zip(["", *words[1::2]], words[::2], strict=True):
        name = _table_name(word)
        if name is None:
            folded = word.lower()
            name = _PLURAL.sub("", folded)
        if name and name != unit:
            unit += (separator if unit else "") + name
    return unit
