"""Stop strings, against an oracle that looks at the whole text letter by letter."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.stopping import StopFinder


def oracle(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """The first prefix that ends in a stop string decides; the longest such string is it."""
    for end in range(1, len(text) + 1):
        endings = [stop for stop in stops if text[:end].endswith(stop)]
        if endings:
            stop = max(endings, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


def find(pieces: list[str], stops: list[str], include: bool = False) -> tuple[str, str | None]:
    finder = StopFinder(stops, include=include)
    text = "".join(finder.feed(piece) for piece in pieces) + finder.finish()
    return text, finder.found


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one. two.", ["."], ("one", ".")),
        ("one two", ["three"], ("one two", None)),
        ("one STO", ["STOP"], ("one STO", None)),
        ("abc", ["abc", "b"], ("a", "b")),
        ("xab", ["b", "ab"], ("x", "ab")),
        ("aab", ["ab"], ("a", "ab")),
        ("思考停止了", ["停止"], ("思考", "停止")),
        ("", ["x"], ("", None)),
    ],
)
@pytest.mark.parametrize("include", [True, False])
def test_every_split_point_finds_the_same(
    text: str, stops: list[str], expected: tuple[str, str | None], include: bool
) -> None:
    before, stop = expected
    wanted = (before + (stop or "") if include else before, stop)
    for a, b in itertools.combinations_with_replacement(range(len(text) + 1), 2):
        assert find([text[:a], text[a:b], text[b:]], stops, include) == wanted


@given(
    st.text(alphabet="abc", max_size=12),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 12), max_size=4),
    st.booleans(),
)
def test_any_text_in_any_pieces(
    text: str, stops: list[str], cuts: list[int], include: bool
) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    assert find(pieces, stops, include) == oracle(text, stops, include)
