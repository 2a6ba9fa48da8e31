"""Which answers are the same: tables of spellings, numbers in every rendering, and groups."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serve.equivalence import MAX_LENGTH, group, is_open, normalise, same_answer

SAME = [
    ["1/2", "0.5", ".50", "+0.5", r"\frac12", r"\frac{1}{2}", r"\dfrac{1}{2}", r"\tfrac 1 2"],
    ["½", "１／２", r"$\frac{1}{2}$", r"\(0.5\)", r"\left(\frac{1}{2}\right)", r"50\%", "50%"],
    ["50％", "50 percent", "5/10", "0.5.", "x = 0.5", "1/2"],
    [
        "1,234",
        "1234",
        "1{,}234",
        r"1\,234",
        r"1,\!234",
        "1 234",
        "01234.0",
        "１，２３４",
        "1,234。",
    ],
    ["1234", r"\$1,234", "$1,234", r"1234\text{ dollars}", "US$1234", "$1.234 thousand"],
    ["-5", "−5", "- 5", "-5.0", r"-\frac{10}{2}", r"\frac{-10}{2}"],
    ["1.5", "1½", "1 1/2", r"1\frac{1}{2}", r"1 \frac12", r"\frac32"],
    ["1000", "10^3", "10^{3}", "1e3", r"1 \times 10^{3}", "1 thousand", "1千", "0.1万"],
    [r"0.\overline{3}", "1/3", r"\frac13"],
    ["5 cm", "5cm", r"5\text{ cm}", r"5\,\mathrm{cm}", "5 centimeters", "5厘米", "5"],
    ["9.8 m/s^2", r"9.8\ \text{m/s}^2", r"9.8\,\mathrm{m}/\mathrm{s}^{2}", "9.8 m/s²", "9.8"],
    ["30 square meters", r"30\text{ m}^2", "30 m²", "30平方米", "30 sq m"],
    ["12元", "12 yuan", "¥12", "￥12", "12块", "12"],
    ["5千克", "5 kg", "5公斤", "5 kilograms"],
    ["60 km per hour", "60 km/h", "60千米/小时", "60千米每小时"],
    [r"30^\circ", r"30^{\circ}", "30°", r"30\text{ degrees}", "30度", "30"],
    [r"20^\circ\text{C}", "20 °C", "20℃"],
    ["5 apples", "5 apple", r"5\text{ Apples}", "5"],
    ["7 units", "7", "7 square units", "7个", "7个苹果"],
    ["5", "x=5", r"x = 5\text{ cm}", "(5)", "{5}", r"\boldsymbol{5}"],
    [
        "(1, 2)",
        "(1,2)",
        r"\left( 1, 2 \right)",
        "（１，２）",
        r"(1.0,\frac{4}{2})",
        "(x, y) = (1, 2)",
    ],
    ["1, 2", "2,1", "1 and 2", r"1\text{ or }2", "x=1, x=2", "x=2 or x=1", "1和2", "1、2"],
    [r"\{1, 2\}", r"\left\{2,1\right\}", r"\{1,2,2\}", "1, 2"],
    [r"\pm 2", "±2", "2, -2", r"x=\pm2", "x=-2 or x=2"],
    [r"x<1\text{ or }x>3", "x > 3 or x < 1", "x<1, x>3"],
    ["1,234, 5,678", "5678 and 1234"],
    ["[1,2)", "[1, 2)", r"\left[1,2\right)"],
    [r"(-\infty,1)\cup(2,\infty)", "(-∞, 1) ∪ (2, ∞)"],
    ["Yes", "yes", r"\text{YES}", "yes.", "“Yes”"],
    ["北京", r"\text{北京}", " 北京。"],
    ["B", "(B)", r"\text{B}", r"\textbf{(B)}"],
    [r"\frac{\pi}{2}", r"\pi/2", "π/2", r"\frac\pi2"],
    [r"-\frac{a}{b}", r"\frac{-a}{b}", "-a/b"],
    [r"\frac{\sqrt{3}}{2}", r"\sqrt{3}/2", r"\frac{\sqrt3}2", "√3/2"],
    ["x^2+2x+1", "x^{2} + 2x + 1", "x² + 2x + 1"],
    [r"25\pi\text{ cm}^2", r"25\pi", "25π cm²", r"25\pi \mathrm{cm}^2"],
    [r"\emptyset", "∅", r"\varnothing", r"\{\}"],
]
DIFFERENT = [
    ["0.333", "1/3", "0.3333"],
    ["1,234", "(1,234)", "1,23", "1.234"],
    ["5 cm", "5 m", "5 kg", "5元", "5°", "5 apples"],
    ["20°C", "20°F"],
    ["1 km", "1000 m"],
    ["x=5", "y=5"],
    ["x<5", "5", "x>5"],
    ["5", "5x", "5m", "5θ", "5i", "5!", "-5", "50", "5万", "5 million", "5 dozen", "5以上"],
    ["5", "5 or more", "5 or 6", "about 5", "5 mod 7", "5 squared", "5 tenths", "5 times"],
    ["50%", "5%", "5000%"],
    ["0.5", "50"],
    ["(1,2)", "(2,1)", "[1,2]", "[1,2)", "1,2"],
    ["1, 2, 2", "1, 2"],
    ["5^2", "5²2", "52"],
    ["1½", "11/2"],
    ["√12", r"\sqrt{1}2"],
    ["3:4", "3/4"],
    ["a", "A"],
    ["x>1 and x<3", "x>1 or x<3"],
    ["2^{10}", "1024"],
    ["9^9^9^9", "9^9^9^8"],
    ["1e999999999", "1e999999998"],
    ["1/0", "2/0", "0"],
    ["", "0"],
    [r"\{1,2", "1,2"],
]


@pytest.mark.parametrize("answers", SAME, ids=lambda answers: answers[0])
def test_spellings_of_one_answer_are_one_group(answers: list[str]) -> None:
    """All at once, and in every pair."""
    assert set(group(answers, "boxed")) == {0}, [normalise(a, "boxed") for a in answers]
    for a, b in itertools.permutations(answers, 2):
        assert same_answer(a, b, "boxed"), (a, b)


@pytest.mark.parametrize("answers", DIFFERENT, ids=lambda answers: answers[0])
def test_different_answers_are_never_united(answers: list[str]) -> None:
    """Not in a pair, and not through a third."""
    assert group(answers, "boxed") == list(range(len(answers)))
    for a, b in itertools.permutations(answers, 2):
        assert not same_answer(a, b, "boxed"), (a, b)


def test_an_answer_without_a_unit_goes_with_the_most_frequent_one_that_it_fits() -> None:
    """The earliest of equally frequent ones; units are never united through it."""
    assert group(["5", "5 cm", "5 m", "5 m"], "boxed") == [0, 1, 0, 0]
    assert group(["5 m", "5 cm", "5", "5"], "boxed") == [0, 1, 0, 0]
    assert group(["5 cm", "x=5", "5 m", "x = 5 cm", "y=5 kg"], "boxed") == [0, 0, 1, 0, 2]


def test_a_percentage_is_read_as_the_others_mean_it() -> None:
    """50% is ½, and also 50 where an answer says so and none says ½."""
    assert group(["50%", "50"], "boxed") == [0, 0]
    assert group(["50%", "50", "0.5"], "boxed") == [0, 1, 0]
    assert group(["50%", "5000%", "50"], "boxed") == [0, 1, 1]


def test_groups_count_up_by_arrival() -> None:
    """Whatever their sizes."""
    assert group(["b", "a", "a", "c", "b", "a"], "boxed") == [0, 1, 1, 2, 0, 1]
    assert group([], "boxed") == []


@pytest.mark.parametrize(
    ("form", "same", "other"),
    [
        ("choice", ["B", "b", " B "], "C"),
        ("json", ['{"a":1,"b":2}', '{"b": 2.0, "a": 1}'], '{"a":1}'),
        ("code", ["x = 1", "x = 1\n"], "x = 2"),
        ("none", ["Yes", " Yes\n"], "yes"),
    ],
)
def test_other_forms_compare_as_they_stand(form: str, same: list[str], other: str) -> None:
    """JSON by value, the rest by the text without the white space around it."""
    assert group([*same, other], form) == [*[0] * len(same), 1]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (r"\sqrt{16}", "4", True),
        ("x+1", "1+x", True),
        (r"2\sqrt{3}\text{ cm}", r"\sqrt{12}", True),
        (r"2\sqrt{3}\text{ cm}", r"\sqrt{12}\text{ kg}", False),
        ("x=2^2", "y=4", False),
        ("(1,x+1)", "(1,1+x)", True),
        (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{bmatrix}1&2\end{bmatrix}", True),
        ("4", "5", False),
        ("(1,2)", "(2,1)", False),
        ("x+1", "x + 1", False),
        ("北京", "x+1", False),
        ("red", "blue", False),
        ("4", "5 or more", False),
    ],
)
def test_only_algebra_leaves_a_question_open(a: str, b: str, expected: bool) -> None:
    """Numbers, words, and units that contradict each other are settled."""
    keys = normalise(a, "boxed"), normalise(b, "boxed")
    assert is_open(*keys) == is_open(*reversed(keys)) == expected


def test_what_goes_to_the_algebra_has_a_name_and_no_unit() -> None:
    """math-verify reads `x=5` itself, and would read some units as variables."""
    assert normalise(r"x = 2\sqrt3 \text{ cm}", "boxed").latex == r"x=2\sqrt{3}"
    assert normalise("50%", "boxed").latex == "1/2"


def renderings(value: Fraction, factor: int) -> list[str]:
    """A number as models write it."""
    sign = "-" if value < 0 else ""
    above, below = abs(value.numerator), value.denominator
    texts = [
        f"{sign}{above}/{below}",
        rf"{sign}\frac{{{above}}}{{{below}}}",
        rf"\dfrac{{{sign}{above * factor}}}{{{below * factor}}}",
        rf"$\left({sign}{above} / {below}\right)$",
        rf"{sign}{Fraction(above, below) * 100}\%",
    ]
    if above < 10 and below < 10:
        texts.append(rf"{sign}\frac{above}{below}")
    if below == 1:
        grouped = f"{sign}{above:,}"
        texts += [grouped, f"{grouped}.", f"{grouped}.00", f"{sign}0{above}", f"{sign}00{above}.0"]
        texts += [grouped.replace(",", mark) for mark in (r"\,", "{,}", " ", r",\!", "，")]
    if above > below > 1:
        texts.append(rf"{sign}{above // below}\frac{{{above % below}}}{{{below}}}")
        texts.append(f"{sign}{above // below} {above % below}/{below}")
    if 10**6 % below == 0:
        millionths = above * 10**6 // below
        decimal = f"{sign}{millionths // 10**6}.{millionths % 10**6:06}"
        texts += [decimal, decimal.rstrip("0").rstrip("."), f"{decimal}00", f"{decimal}0 kg"]
        texts += [rf"{sign}{millionths} \times 10^{{-6}}", f"{sign}{millionths}e-6"]
    return texts


numbers = st.builds(
    lambda above, power, below: Fraction(above * 10**power, below),
    st.integers(-(10**6), 10**6),
    st.integers(0, 6),
    st.sampled_from([1, 2, 4, 5, 8, 10, 100, 1000, 10**6]) | st.integers(1, 10**6),
)


@given(numbers, st.integers(2, 9))
def test_every_rendering_of_a_number_has_its_value(value: Fraction, factor: int) -> None:
    """Fractions, mixed numbers, decimals, percentages, powers of ten and groups of digits."""
    for text in renderings(value, factor):
        key = normalise(text, "boxed")
        assert (key.value, key.kind) == (value, "number"), text


@given(numbers, numbers, st.data())
def test_numbers_that_differ_are_different_answers(
    a: Fraction, b: Fraction, data: st.DataObject
) -> None:
    """However little, and however they are written; but 50 may be meant by 50%."""
    texts = [data.draw(st.sampled_from(renderings(value, 2)), str(value)) for value in (a, b)]
    assume(a != b and not any("%" in text for text in texts))
    assert not same_answer(*texts, "boxed")


@given(st.integers(0, 10**30), st.integers(1, 40))
def test_a_digit_far_behind_the_point_makes_another_number(whole: int, num_zeros: int) -> None:
    """Nothing is rounded to a float."""
    assert not same_answer(f"{whole}.{'0' * num_zeros}1", f"{whole}", "boxed")
    assert not same_answer(f"{whole}", f"{whole + 1}", "boxed")


UNITS = [
    "cm",
    r"\text{ cm}",
    " m",
    r"\ \text{m}",
    "元",
    "千克",
    " apples",
    "^\\circ",
    r"\text{ km}/\text{h}",
]


@given(st.lists(st.tuples(st.sampled_from(["5", "7", "2.5"]), st.sampled_from(["", *UNITS]))))
def test_a_group_has_one_value_and_at_most_one_unit(parts: list[tuple[str, str]]) -> None:
    """And equal keys are in one group, so that groups are classes of an equivalence."""
    answers = [number + unit for number, unit in parts]
    keys = [normalise(answer, "boxed") for answer in answers]
    groups = group(answers, "boxed")
    for number in set(groups):
        members = [key for key, its in zip(keys, groups, strict=True) if its == number]
        assert len({key.value for key in members}) == 1
        assert len({key.unit for key in members} - {""}) <= 1
    assert len({(key, its) for key, its in zip(keys, groups, strict=True)}) == len(set(keys))


pieces = st.sampled_from(
    (
        *(r"\frac", r"\text{", r"\{", r"\}", r"\left", r"\pm", r"\$", "$", "{", "}", "(", ")", "["),
        *("]", "1", "12", "345", "0", ".", ",", ", ", " ", "=", "x=", "^", "/", "%", "°", "-", "√"),
        *("cm", " m", " apples", "万", "千克", "e9", "½", "²", "\n", "Yes", "是", " or ", "和"),
    )
)
texts = st.lists(pieces, max_size=12).map("".join) | st.text(max_size=30)


@given(texts, texts, texts)
def test_equivalence_by_keys_is_one(a: str, b: str, c: str) -> None:
    """Any text equals itself, whichever way round it is compared; keys are transitive."""
    assert same_answer(a, a, "boxed")
    assert same_answer(a, b, "boxed") == same_answer(b, a, "boxed")
    keys = [normalise(text, "boxed") for text in (a, b, c)]
    assert keys[0] != keys[1] or keys[1] != keys[2] or keys[0] == keys[2]


@given(texts)
def test_what_only_typesets_changes_nothing(text: str) -> None:
    """White space around it, math shifts, a full stop."""
    assume("$" not in text and not text.endswith("\\"))
    key = normalise(text, "boxed")
    for dressed in (f"  {text}\n", f"${text}$", rf"\({text}\)", f"{text}.", f"{text}。"):
        assert normalise(dressed, "boxed") == key


@pytest.mark.parametrize(
    "text",
    ["9" * 10**6, "9" * 499, "1e" + "9" * 400, "9^" * 200 + "9", "(" * 499, "1," * 249, "1/" * 249],
)
def test_hostile_answers_are_not_expanded(text: str) -> None:
    """They are compared as text, or as numbers of no more digits than the answer has."""
    value = normalise(text, "boxed").value
    assert len(value) < len(text) + 5 if isinstance(value, str) else value < 10**MAX_LENGTH
    assert same_answer(text, text, "boxed")
    assert not same_answer(text, text + "1", "boxed")
