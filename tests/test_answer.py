"""Where the answer is in a reply: examples for each form, properties, and hostile text."""

from __future__ import annotations

import json
import math
import sys
from types import FrameType
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.answer import AnswerForm, canonical_json, extract_answer

FORMS: tuple[AnswerForm, ...] = get_args(AnswerForm)


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (r"So \boxed{42}.", "42"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {5} and \fbox{6}", "6"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{1} then \boxed{2", "1"),
        (r"\boxed{1} within \boxed{} or \boxed{ }", "1"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a \} b}", r"a \} b"),
        (r"\boxed{\text{if } \{x}", r"\text{if } \{x"),
        (r"\boxed{outer \boxed{inner} text}", "inner"),
        (r"{ } } \boxed{5} } {", "5"),
        (r"\boxed{unclosed { \boxed{5}", "5"),
        (r"\\boxed{5}", "5"),
        ("\\boxed{\n  答案\n}", "答案"),
        (r"\boxed{\begin{pmatrix}1\\{2}\end{pmatrix}}", r"\begin{pmatrix}1\\{2}\end{pmatrix}"),
        (r"\boxed 5", None),
        (r"boxed{5}", None),
        (r"\boxed{}", None),
        ("42", None),
        ("", None),
    ],
)
def test_the_last_complete_box_is_the_answer(content: str, answer: str | None) -> None:
    """Nested braces belong to it, escaped ones don't count, and a blank box is none."""
    assert extract_answer(content, "boxed") == answer


braced = st.recursive(
    st.sampled_from(["", "x", r"\{", r"\}", r"\\", "½", "\n", r"\frac", " "]),
    lambda inner: (
        st.builds("{{{}}}{}".format, inner, inner) | st.builds("{}{}".format, inner, inner)
    ),
)


@given(st.text(alphabet="ab{}\\ ", max_size=20), braced)
def test_any_nesting_of_braces_comes_back_whole(before: str, body: str) -> None:
    """What stands in a box is returned, whatever stood before it."""
    before = before.replace("\\", "") if before.endswith("\\") else before
    expected = body.strip() or extract_answer(before, "boxed")
    assert extract_answer(f"{before}\\boxed{{{body}}}", "boxed") == expected


def last_box(text: str) -> str | None:
    """The rule, tried at every box from the last one on: quadratic, and without a stack."""
    for begin in range(len(text) - 1, -1, -1):
        if not text.startswith("\\boxed{", begin) or text[:begin].endswith("\\"):
            continue
        depth, at = 0, begin + len("\\boxed")
        while at < len(text):
            if text[at] == "\\":
                at += 2
                continue
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                body = text[begin + len("\\boxed{") : at].strip()
                if body:
                    return body
                break
            at += 1
    return None


@given(st.lists(st.sampled_from([r"\boxed{", "{", "}", r"\{", r"\}", "x", " "])).map("".join))
def test_boxes_agree_with_a_search_from_the_end(text: str) -> None:
    """One walk with a stack finds what trying every box finds."""
    assert extract_answer(text, "boxed") == last_box(text)


@pytest.mark.parametrize(
    ("content", "letter"),
    [
        (r"\boxed{B}", "B"),
        (r"\boxed{\text{B}}", "B"),
        (r"$\boxed{\textbf{(B)}\ 5}$", "B"),
        (r"\boxed{b}", "B"),
        (r"\boxed{C. 12 cm}", "C"),
        ("Answer: B", "B"),
        ("**Answer:** (C)", "C"),
        ("The answer is (C).", "C"),
        ("The correct answer is option **D**, since", "D"),
        (r"The answer is $\textbf{(B)}$", "B"),
        (r"Answer: \(A\)", "A"),
        ("The answer is A because A fits", "A"),
        ("so the answer is b.", "B"),
        ("Option B is correct.", "B"),
        ("I choose E.", "E"),
        ("答案是B", "B"),
        ("答案：**D**。", "D"),
        ("正确答案为选项 A。", "A"),
        ("故选：C", "C"),
        ("因此选 B 项", "B"),
        ("选项B正确", "B"),
        ("D.", "D"),
        ("**D**", "D"),
        ("(d)", "D"),
        ("B) 42", "B"),
        ("First we compare.\n\nB", "B"),
        ("Answer: A. Wait, no. The answer is J.", "J"),
        (r"Answer: A. No: \boxed{B}", "B"),
        (r"\boxed{B} No. Answer: A", "A"),
        (r"\boxed{12}, so the answer is C.", "C"),
        (r"The answer is C: \boxed{12}", "C"),
    ],
)
def test_the_last_statement_of_a_choice_wins(content: str, letter: str) -> None:
    """Boxes, sentences in English and Chinese, and a closing line that is only the letter."""
    assert extract_answer(content, "choice") == letter


@pytest.mark.parametrize(
    "content",
    [
        "",
        "K.",
        "The answer is a number.",
        "The answer is I think 5.",
        "The answer is not B.",
        "Option B is wrong.",
        "不选B",
        "A) 1\nB) 2",
        "The answer is C++.",
        "The answer is E=mc^2.",
        "The answer is A or B.",
        "选A和B",
        "Answer: A. No: the answer is B and C.",
        r"\boxed{A, C}",
        r"\boxed{12}",
    ],
)
def test_an_unclear_choice_is_none(content: str) -> None:
    """Several letters, a denial, or letters that name something else."""
    assert extract_answer(content, "choice") is None


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ('Here: {"b": 1.0, "a": [1e2, 0.50]} as asked.', '{"a":[100,0.5],"b":1}'),
        ('```json\n{"a": 1}\n```\nsee [2]', '{"a":1}'),
        ("```json\n[1]\n```\n```json\n[2]\n```\n```json\n[3", "[2]"),
        ("```json\n42\n```", "42"),
        ("```python\nx = [1]\n```", "[1]"),
        (' "yes" ', '"yes"'),
        ("null", "null"),
        ("-0.0", "0"),
        ("12345678901234567890.10", "12345678901234567890.1"),
        ("[1e999999999]", "[1E+999999999]"),
        ('[1] and then {"a": {"b": [2]}}', '{"a":{"b":[2]}}'),
        ('[see {"a": 1}', '{"a":1}'),
        ('the 5" pipe: {"a": "x]"}', '{"a":"x]"}'),
        (r'{"a": "\"}"}', r'{"a":"\"}"}'),
        ('{"中": "文"}', '{"中":"文"}'),
        ('{"a": [1, 2], "b": ', None),
        ('{"a": NaN}', None),
        ("{'a': 1}", None),
        ("[01]", None),
        (r'["\ud800"]', None),
        ("1e99999999999999999999", None),
        ("no value", None),
        ("", None),
    ],
)
def test_the_last_json_value_in_one_spelling(content: str, value: str | None) -> None:
    """A whole content or a fence may be any value; elsewhere it is an object or an array."""
    assert extract_answer(content, "json") == value


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=10,
)


@given(json_values, st.integers(0, 4), st.booleans())
def test_json_is_found_however_it_is_laid_out(value: Any, indent: int, ascii_only: bool) -> None:
    """One value has one answer: whole, fenced, or (an object or array) within a sentence."""
    text = json.dumps(value, indent=indent or None, ensure_ascii=ascii_only)
    answer = extract_answer(text, "json")
    assert answer is not None
    assert json.loads(answer, parse_int=float) == json.loads(text, parse_int=float)
    assert canonical_json(answer) == answer
    assert extract_answer(f"So:\n```json\n{text}\n```\nDone [1].", "json") == answer
    if isinstance(value, dict | list):
        assert extract_answer(f"We get {text}, as asked.", "json") == answer


@given(st.integers().filter(bool), st.integers(-9, 9), st.integers(0, 5))
def test_json_numbers_are_equal_when_their_values_are(digits: int, power: int, zeros: int) -> None:
    """`1.0` is `1` and `1e2` is `100`; a digit more makes another number."""
    spellings = {f"{digits}e{power}", f"{digits}{'0' * zeros}e{power - zeros}"}
    spellings |= {f"{digits}.{'0' * zeros}0E{power}"}
    assert len({canonical_json(text) for text in spellings}) == 1
    assert canonical_json(f"{digits}.{'0' * 30}1") != canonical_json(f"{digits}")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("```python\nx = 1  \n\n```\n", "x = 1"),
        ("```\na\n```\nthen\n~~~js\nb\n~~~", "b"),
        ("```\na\n```\n```py\nunclosed", "a"),
        ("1. Do:\n   ```py\n   if x:\n       y\n   ```", "if x:\n    y"),
        ("````md\n```\ninner\n```\n````", "```\ninner\n```"),
        ("```\r\na\r\nb\r\n```\r\n", "a\nb"),
        ("~~~\n```\n~~~", "```"),
        ("`x` and ```y```", None),
        ("no code", None),
    ],
)
def test_the_last_complete_code_block_is_the_answer(content: str, code: str | None) -> None:
    """Whatever its fence and language; an unclosed one is cut off, and none."""
    assert extract_answer(content, "code") == code


def test_without_a_form_the_whole_content_is_the_answer() -> None:
    """But for the white space around it, and nothing is no answer."""
    assert extract_answer("\n 42. \n", "none") == "42."
    assert extract_answer(" \n", "none") is None


HOSTILE = [
    *(r"\boxed{", r"\boxed ", "\\", "{", "}", "[", '["', '["\\"', '{"a":', "[1,", "[x", '"', "1"),
    *("```\n", "~~~a\n", "`", "answer is (", "Answer ", "选 ", "A is ", "**A", " ", "\n", "I "),
]


@pytest.mark.parametrize("form", FORMS)
@given(pieces=st.lists(st.sampled_from(HOSTILE) | st.text(max_size=5), max_size=20).map("".join))
def test_no_text_makes_it_raise(form: AnswerForm, pieces: str) -> None:
    """And what it finds isn't blank."""
    answer = extract_answer(pieces, form)
    assert answer is None or answer.strip() or form == "code"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_of_a_whole_reply_is_read(form: AnswerForm, piece: str) -> None:
    """100,000 characters: quadratic readers would exceed the tests' time limit, or the stack."""
    extract_answer(piece * (100_000 // len(piece)), form)


def num_lines_run(content: str, form: AnswerForm) -> int:
    """How many lines of Python the extraction takes."""
    num_lines, before = 0, sys.gettrace()

    def count(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal num_lines
        num_lines += event == "line"
        return count

    sys.settrace(count)
    try:
        extract_answer(content, form)
    finally:
        sys.settrace(before)
    return num_lines


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("piece", HOSTILE)
def test_twice_the_text_takes_twice_the_steps(form: AnswerForm, piece: str) -> None:
    """No loop of ours is more than linear (the regular expressions: see the test before)."""
    once = num_lines_run(piece * 200, form)
    assert num_lines_run(piece * 400, form) <= 2 * once + 100


def test_no_constant_of_another_language_is_json() -> None:
    """`json.loads` alone would take these."""
    for name in ("NaN", "Infinity", "-Infinity"):
        assert not math.isfinite(json.loads(name))
        assert canonical_json(name) is None
