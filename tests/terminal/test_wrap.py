"""Layout of streamed text, by what a terminal makes of it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from serve.terminal.wrap import Wrapper, printable

WORDS = st.lists(st.text(alphabet="abc,.你好é🙂", min_size=1, max_size=9), max_size=20)


def drawn(written: str) -> list[str]:
    """The lines of a terminal that got this; words may be taken back, nothing else moves."""
    lines = [""]
    for text, back in re.findall(r"([^\x1b]*)(?:\x1b\[(\d+)D\x1b\[K)?", written):
        first, *others = text.split("\n")
        lines = [*lines[:-1], lines[-1] + first, *others]
        if back:
            kept = lines[-1]
            while cell_len(kept) > cell_len(lines[-1]) - int(back):
                kept = kept[:-1]
            lines[-1] = kept
    return lines


def laid_out(text: str, width: int, size: int | None = None) -> list[str]:
    wrapper = Wrapper()
    size = size or len(text) or 1
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    return drawn("".join(wrapper.feed(piece, width) for piece in pieces))


def test_words_are_not_torn() -> None:
    assert laid_out("the quick brown fox jumps", 12) == ["the quick ", "brown fox ", "jumps"]


def test_a_word_that_fills_a_line_goes_on_on_the_next() -> None:
    assert laid_out("ab cdefghijkl m", 6) == ["ab ", "cdefg", "hijkl", "m"]


def test_chinese_breaks_anywhere_and_stays_within() -> None:
    assert laid_out("你好世界，你好", 8) == ["你好世", "界，你", "好"]


def test_lines_and_indents_of_code_stay() -> None:
    assert laid_out("def f():\n\treturn 1\n", 40) == ["def f():", "        return 1", ""]


@given(WORDS, st.integers(4, 30), st.integers(1, 7))
def test_it_is_the_same_in_pieces_and_within_the_width(
    words: list[str], width: int, size: int
) -> None:
    """All characters are there, in their order; the last column stays empty."""
    text = " ".join(words)
    lines = laid_out(text, width)
    assert laid_out(text, width, size) == lines
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(cell_len(line) < width for line in lines)
    for word in words:
        if word.isascii() and len(word) < width:
            assert any(word in line for line in lines), lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain 你好\n\tx", "plain 你好\n\tx"),
        ("\x1b[2Jgone\x07\r", "[2Jgone"),
        ("\x9b31mred\x7f", "31mred"),
        ("é \u200b", "é \u200b"),
    ],
)
def test_text_controls_no_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown
