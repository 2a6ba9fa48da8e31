"""The loop finder, against an oracle that looks at the whole stream at every check."""

from __future__ import annotations

import itertools
import math
import random
from array import array
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serve import repetition
from serve.repetition import Loop, LoopFinder, LoopLimits

DEFAULT = LoopLimits()
AWKWARD_IDS = [0, 1, 256, 55_296, 65_279, 65_536, 151_646]
"""As characters: NUL, widths of one, two and four bytes, half a surrogate pair, a byte order
mark."""

limits_ = st.builds(
    LoopLimits,
    max_period=st.integers(1, 9),
    min_repeats=st.integers(2, 5),
    min_tokens=st.integers(1, 24),
    check_tokens=st.integers(1, 9),
)
noise_ = st.lists(st.sampled_from(AWKWARD_IDS[:4]), max_size=40)
planted_ = st.builds(
    lambda pattern, num: list(itertools.islice(itertools.cycle(pattern), num)),
    st.lists(st.sampled_from(AWKWARD_IDS), min_size=1, max_size=10),
    st.integers(0, 60),
)
streams_ = st.lists(noise_ | planted_, max_size=5).map(lambda parts: list(itertools.chain(*parts)))


def oracle(ids: Sequence[int], limits: LoopLimits) -> Loop | None:
    """What the definition says, with no window and no state."""
    for end in range(limits.check_tokens, len(ids) + 1, limits.check_tokens):
        for period in range(1, min(limits.max_period, end) + 1):
            start = end - period
            while start > 0 and ids[start - 1] == ids[start - 1 + period]:
                start -= 1
            if end - start >= max(limits.min_repeats * period, limits.min_tokens):
                return Loop(period, start, end)
    return None


def find(ids: Sequence[int], limits: LoopLimits = DEFAULT, num_at_once: int = 1) -> Loop | None:
    finder = LoopFinder(limits)
    for at in range(0, len(ids), num_at_once):
        finder.feed(ids[at : at + num_at_once])
    return finder.found


@given(streams_, limits_)
def test_any_stream_has_the_loop_that_the_definition_says(
    ids: list[int], limits: LoopLimits
) -> None:
    """The same verdict, period, start and check, though the oracle sees more than the window."""
    assert find(ids, limits) == oracle(ids, limits)


@given(st.lists(st.integers(0, 1), max_size=300), limits_)
def test_two_ids_are_enough_to_confuse(ids: list[int], limits: LoopLimits) -> None:
    """A small alphabet is full of near loops."""
    assert find(ids, limits, num_at_once=7) == oracle(ids, limits)


@given(streams_, limits_, st.lists(st.integers(0, 300), max_size=8))
@example([5] * 40, LoopLimits(max_period=2, min_tokens=8, check_tokens=8), [])
def test_any_cut_into_feeds_gives_the_same(
    ids: list[int], limits: LoopLimits, cuts: list[int]
) -> None:
    """The loop comes with the feed that completes it, and stays."""
    loop = oracle(ids, limits)
    edges = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    finder = LoopFinder(limits)
    for begin, end in itertools.pairwise(edges):
        expected = loop if loop and end >= loop.found_at else None
        assert finder.feed(array("I", ids[begin:end])) == expected
        assert finder.found == expected


@pytest.mark.parametrize("period", [1, 2, 23, 24, 25, 96, 511, 512])
@pytest.mark.parametrize("num_before", [0, 1, 31, 5000])
def test_runaway_thinking_is_cut_to_one_round(period: int, num_before: int) -> None:
    """By default, within a check of four rounds and 96 ids, however much came before."""
    rng = random.Random(period)
    before = [rng.randrange(150_000) for _ in range(num_before)]
    pattern = rng.sample(range(200_000, 300_000), period)
    ids = before + (pattern * 200)[: 4 * period + 200]
    loop = find(ids)
    assert loop is not None
    assert (loop.period, loop.start) == (period, num_before)
    assert 0 <= loop.found_at - num_before - max(4 * period, 96) < 32
    assert ids[: loop.first_end] == before + pattern


def test_a_stretch_one_id_short_is_no_loop() -> None:
    """Wherever the checks fall on it."""
    rng = random.Random(1)
    for offset in range(32):
        before = [rng.randrange(150_000) for _ in range(64 + offset)]
        for period in (1, 24, 30, 512):
            short = (rng.sample(range(200_000, 300_000), period) * 100)[: max(4 * period, 96) - 1]
            assert find(before + short + before) is None
    assert find(rng.sample(range(1000), 513) * 9) is None


def _lines(line: Callable[[int], str]) -> list[int]:
    """Two hundred lines, by characters: far more alike than tokens are."""
    return [ord(letter) for i in range(1, 201) for letter in line(i)]


@pytest.mark.parametrize(
    "line",
    [
        lambda i: f"{i}\n",
        lambda i: f"{i}, ",
        lambda i: f"Step {i}: let us try x = {i}.\n",
        lambda i: f"| {i:3} | {i * i:6} | yes | no |\n",
        lambda i: f"n = {i % 7}: 2^n mod 7 = {2**i % 7}, f = {i * i % 101}\n",
        lambda i: "." * (i % 95) + f" {i}\n|---|---|---|---|\n",
        lambda i: f"Wait, let me check that again. {'No' * (i % 3)}, {i} is right.\n\n",
    ],
    ids=["count", "commas", "steps", "table", "residues", "dots", "wait"],
)
def test_text_that_gets_on_is_no_loop(line: Callable[[int], str]) -> None:
    """Lists that count up, tables with changing numbers, rows of dots, rules."""
    assert find(_lines(line), num_at_once=16) is None


def test_a_table_that_stands_still_is_a_loop() -> None:
    """The same line over and over."""
    loop = find(_lines(lambda i: "| 1 | 2 |\n"))
    assert loop == Loop(period=10, start=0, found_at=96)


def _fibonacci(num: int) -> list[int]:
    """Full of stretches of up to 3.6 rounds."""
    a, b = [1], [1, 2]
    while len(b) < num:
        a, b = b, b + a
    return b[:num]


def _nested(num: int) -> list[int]:
    """Four rounds but for one id, of four rounds but for one id, and so on."""
    ids, other = [*[1] * 30, 2], 3
    while len(ids) < num:
        ids, other = [*(ids * 4)[:-1], other], other + 1
    return ids[:num]


def _runs(num: int, lengths: Sequence[int]) -> list[int]:
    """a a a a b, the runs just too short."""
    runs = ([1] * length + [2 + i % 5] for i, length in enumerate(itertools.cycle(lengths)))
    return list(itertools.islice(itertools.chain.from_iterable(runs), num))


def _near_loops(num: int, period: int) -> list[int]:
    rng, ids = random.Random(period), list[int]()
    while len(ids) < num:
        ids += ([rng.randrange(1000) for _ in range(period)] * 4)[:-1]
    return ids[:num]


WORK_LIMITS = LoopLimits(max_period=128, min_repeats=4, min_tokens=32, check_tokens=8)
HOSTILE = [
    _fibonacci(6000),
    _nested(6000),
    _runs(6000, [31]),
    _runs(6000, range(20, 32)),
    _runs(6000, [31, 24, 31, 28, 30, 31, 25]),
    *(_near_loops(6000, period) for period in (8, 9, 40, 128)),
    random.Random(2).choices([1, 2], k=6000),
    random.Random(3).choices([1, 2], [4, 1], k=6000),
]


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many ids each search compared, as `str.rfind` goes: every place, from behind."""
    counts: list[int] = []
    nearest = repetition._nearest

    def counted(ids: str, num_last: int, least: int, most: int) -> int | None:
        back = nearest(ids, num_last, least, most)
        num = 0
        for shift in range(least, min(back or most, len(ids) - num_last) + 1):
            num += 1
            for at in range(1, num_last):
                if ids[-at] != ids[-at - shift]:
                    break
                num += 1
        counts.append(num)
        return back

    monkeypatch.setattr(repetition, "_nearest", counted)
    return counts


@pytest.mark.parametrize("ids", HOSTILE)
def test_the_work_of_a_check_is_bounded_whatever_came(ids: list[int], searches: list[int]) -> None:
    """So that of the stream is linear. The bounds are the module's."""
    limits = WORK_LIMITS
    period, repeats, tokens = limits.max_period, limits.min_repeats, limits.min_tokens
    most_ids = period * (tokens + repeats * (2 + math.log(repeats * period / tokens)))
    growth = 2 - 1 / repeats
    most_searches = 2 + tokens / (repeats - 1) + 2 * math.log(period * repeats / tokens, growth)
    finder = LoopFinder(limits)
    for at in range(0, len(ids), limits.check_tokens):
        searches.clear()
        finder.feed(ids[at : at + limits.check_tokens])
        assert sum(searches) <= most_ids
        assert len(searches) <= most_searches
    assert finder.found is None


def test_ordinary_text_costs_one_search_a_check(searches: list[int]) -> None:
    rng = random.Random(4)
    assert find([int(rng.paretovariate(0.7)) % 150_000 for _ in range(20_000)]) is None
    assert len(searches) == 20_000 // 32


@pytest.mark.parametrize("num_at_once", [1, 16, 33, 100_000])
def test_the_memory_is_bounded(num_at_once: int) -> None:
    """It keeps the window and what waits for the next check, and nothing once it has found."""
    rng = random.Random(5)
    finder = LoopFinder(DEFAULT)
    for _ in range(0, 100_000, num_at_once):
        finder.feed([rng.randrange(150_000) for _ in range(num_at_once)])
        assert len(finder._window) <= 4 * 512 + 32
        assert len(finder._pending) < 32
    for _ in range(200):
        finder.feed([7])
    assert finder.found is not None
    assert not finder._window
    assert not finder._pending


@pytest.mark.parametrize("token_id", [-1, 0x110000])
def test_an_id_of_no_vocabulary_is_refused(token_id: int) -> None:
    with pytest.raises(OverflowError):
        LoopFinder(LoopLimits(check_tokens=1)).feed([token_id])


@pytest.mark.parametrize(
    "limit",
    [{"max_period": 0}, {"min_repeats": 1}, {"min_tokens": 0}, {"check_tokens": 0}],
    ids=lambda limit: next(iter(limit)),
)
def test_limits_too_low_are_named(limit: dict[str, int]) -> None:
    (name,) = limit
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        LoopLimits(**limit)
