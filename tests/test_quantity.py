"""Numbers with units: what is plainly a unit, and what only looks like one."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.quantity import read_quantity, split_unit


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("5", 5, ""),
        ("-1,234.50", Fraction(-2469, 2), ""),
        (r"1\frac{1}{2}", Fraction(3, 2), ""),
        (r"1.2\overline{45}", Fraction(137, 110), ""),
        ("3*10^{-2}", Fraction(3, 100), ""),
        ("50%", Fraction(1, 2), "%"),
        ("12.5 percent", Fraction(1, 8), "%"),
        ("5 m", 5, "m"),
        ("5m/s", 5, "m/s"),
        ("5 km per hour", 5, "km/h"),
        ("5千米每小时", 5, "km/h"),
        ("3 square feet", 3, "ft^{2}"),
        ("3 cubic units", 3, ""),
        ("3 sq units per day", 3, "day"),
        ("-$5", -5, "$"),
        ("$1.5 million", 1_500_000, "$"),
        ("$15 per hour", 15, "$/h"),
        ("5 USD", 5, "$"),
        ("5万元", 50_000, "¥"),
        ("3千万", 30_000_000, ""),
        ("5千米", 5, "km"),
        ("5 dozen eggs", 60, "egg"),
        ("5个苹果", 5, "个苹果"),
        ("30°C", 30, "°C"),
        ("5 PM", 5, "pm"),
        ("10 glass", 10, "glass"),
        ("1/2 hours", Fraction(1, 2), "h"),
    ],
)
def test_a_number_and_what_is_plainly_its_unit(text: str, value: Fraction | int, unit: str) -> None:
    """Exact, scaled by words such as `million`, the unit in one spelling."""
    assert read_quantity(text) == (value, unit)


@pytest.mark.parametrize(
    "text",
    [
        *("", "cm", "5x", "5 x", "5m", "5i", "5ab", "5 ab", "5θ", "5apples", "5 sin", "5!", "x+5"),
        *("5 or more", "5 or 6", "5 squared", "3 tenths", "3 halves", "5以上", "5多人", "5 in 6"),
        *("1/0", r"\frac{1}{0}", r"2\frac{3}{2}", "1,23", "1.2.3", "1e9999", "10^{9999}", "--5"),
        *("5^{2}", "2 h 30 min", "١٢", "5 cm, 6 cm"),
    ],
)
def test_what_is_no_quantity_is_left_alone(text: str) -> None:
    """Algebra, words that change the number, and numbers that would have to be expanded."""
    assert read_quantity(text) is None


@pytest.mark.parametrize(
    ("expression", "head", "unit"),
    [
        (r"25\pi cm^{2}", r"25\pi", "cm^{2}"),
        (r"10\sqrt{3} km/h", r"10\sqrt{3}", "km/h"),
        (r"2\pi 厘米", r"2\pi", "cm"),
        (r"2\pi square units", r"2\pi", ""),
        (r"2\pi m", r"2\pi m", ""),
        (r"2\pi apples", r"2\pi apples", ""),
        (r"\pi r", r"\pi r", ""),
        ("cm", "cm", ""),
    ],
)
def test_behind_an_expression_only_names_of_the_table_are_units(
    expression: str, head: str, unit: str
) -> None:
    """A letter or another word may belong to the expression."""
    assert split_unit(expression) == (head, unit)


words = st.lists(
    st.sampled_from(["5", " ", "cm", "m", "/", "^{2}", "千", "每", "°", "$", "%", "xs"])
)


@given(words.map(lambda pieces: " ".join("".join(pieces).split())))
def test_a_unit_is_read_the_same_once_more(text: str) -> None:
    """The one spelling of a quantity says that quantity."""
    quantity = read_quantity(text)
    if quantity and quantity[1] != "%":
        value, unit = quantity
        assert read_quantity(f"{value} {unit}".strip()) == quantity
