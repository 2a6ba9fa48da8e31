"""The trace splitter, against an oracle over the whole text, for every way of cutting it up."""

from __future__ import annotations

import itertools
import random
import re
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.reasoning import TraceFormat, TraceSplitter, num_reasoning_tokens

OPENED = TraceFormat(opened_by_template=True)
CLOSED = TraceFormat(opened_by_template=False)
SPLIT = TraceFormat(opened_by_template=True, split_by_engine=True)


def oracle(text: str, *, opened: bool) -> tuple[str, str]:
    """What the rules say of a whole output, written without any state."""
    match = re.match(r"\s*<think>", text)
    if not match and not opened:
        return "", _without_blank_lines(text)
    trace, _, answer = text[match.end() if match else 0 :].partition("</think>")
    return trace.strip(), _without_blank_lines(answer)


def _without_blank_lines(text: str) -> str:
    return re.sub(r"\A\s*\n", "", text) if text.strip() else ""


def split(pieces: list[str], trace_format: TraceFormat) -> tuple[str, str]:
    splitter = TraceSplitter(trace_format)
    released = [splitter.feed_split("", piece) for piece in pieces] + [splitter.finish()]
    return "".join(t for t, _ in released), "".join(a for _, a in released)


HAND_MADE = [
    "steps\n</think>\n\nThe answer is 4.",
    "<think>\nsteps\n</think>\n\nanswer",
    "\n<think>\nsteps\n</think>\n\nanswer",
    "<think></think>answer",
    "<think>\n\n</think>\n\nanswer",
    "\n</think>\n\nHello!",
    "</think>Hello!",
    "</think>",
    "",
    " ",
    "\n\n",
    "plain answer with no thinking",
    "cut off while thin",
    "cut off in the tag </thi",
    "cut off in the tag </think",
    "<thi",
    "<think",
    "<think>",
    "<think>\n",
    "  <think>  ",
    "a < b and b </ c </thinks </THINK> </think >\n</think>\n\n1 < 2",
    "<<<</think>>>>",
    "</</think>",
    "</think></think>",
    "<think>a</think>b</think>c",
    "<think><think>a</think>b",
    "<think>\n<think>\na</think>b",
    "x</think>\n\nIn R1 the trace stands between `<think>` and `</think>`.",
    "x</think>\n\n```xml\n<think>\nquoted\n</think>\n```\n",
    "x</think>\n\n    indented code",
    "x</think>   spaces before",
    "x</think> \n \n\t y",
    "x</think>\n\n",
    "x </think> \n ",
    "思考：一加一\n</think>\n\n答案是 2。",
    "😀😀 </think>\n😀",
    "naïve café \u2028 \u00a0</think>\u00a0x",
    "a\r\nb\r\n</think>\r\n\r\nc\r\n",
    "   leading space in the trace</think>x",
    "trailing   \n\n   \n </think>x",
    "inner\n\n\nblank lines\n\n\nstay</think>x\n\n\ny\n\n",
    "tool: <tool_call>{}</tool_call></think><tool_call>{}</tool_call>",
    "<thinking>not our tag</thinking></think>x",
    "done</thi nk>no</think>yes",
    "< /think></think>x",
    "\\boxed{</think>}",
    "<|im_start|></think><|im_end|>",
    "0</think>0",
]


def _generated(count: int) -> list[str]:
    """Seeded mixtures of the awkward pieces: the same samples in every run."""
    rng = random.Random(20250120)
    pieces = ["<think>", "</think>", "\n", "\n\n", " ", "a", "step 1", "<", "</", "</thi", "nk>"]
    pieces += [">", "答案", "😀", "`</think>`", "\t", "think>", "<thin", "1 < 2", "\\boxed{4}"]
    return ["".join(rng.choices(pieces, k=rng.randint(1, 9))) for _ in range(count)]


SAMPLES = HAND_MADE + _generated(220)


@pytest.mark.parametrize("trace_format", [OPENED, CLOSED], ids=["opened", "not_opened"])
def test_every_split_point_gives_what_the_whole_text_gives(trace_format: TraceFormat) -> None:
    """Every sample, cut at every point, and letter by letter, splits as the rules say."""
    assert len(SAMPLES) >= 200
    for text in SAMPLES:
        expected = oracle(text, opened=trace_format.opened_by_template)
        assert split([text], trace_format) == expected, text
        assert split(list(text), trace_format) == expected, text
        for at in range(len(text) + 1):
            assert split([text[:at], text[at:]], trace_format) == expected, (text, at)


@pytest.mark.parametrize("trace_format", [OPENED, CLOSED], ids=["opened", "not_opened"])
def test_every_pair_of_split_points(trace_format: TraceFormat) -> None:
    """The hand-made samples in three pieces, for every pair of cuts."""
    for text in HAND_MADE:
        expected = oracle(text, opened=trace_format.opened_by_template)
        for first, second in itertools.combinations(range(len(text) + 1), 2):
            pieces = [text[:first], text[first:second], text[second:]]
            assert split(pieces, trace_format) == expected, (text, first, second)


@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "\n", " ", "<", "/", "think>", "x", "é", "思"])
    ),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_any_text_in_any_pieces(parts: list[str], opened: bool, rng: random.Random) -> None:
    """Whatever the text and however it is cut, the result is the oracle's."""
    text = "".join(parts)
    cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randint(0, 5)))
    pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    trace_format = OPENED if opened else CLOSED
    assert split(pieces, trace_format) == oracle(text, opened=opened)


@given(st.text(alphabet="<think/> \nab", max_size=60))
def test_nothing_that_was_released_is_taken_back(text: str) -> None:
    """What a prefix has released is a prefix of what the whole releases."""
    splitter = TraceSplitter(OPENED)
    trace = answer = ""
    whole = oracle(text, opened=True)
    for letter in text:
        more_trace, more_answer = splitter.feed(letter)
        trace, answer = trace + more_trace, answer + more_answer
        assert whole[0].startswith(trace)
        assert whole[1].startswith(answer)


def feed_split(deltas: list[tuple[str, str]], trace_format: TraceFormat = SPLIT) -> tuple[str, str]:
    splitter = TraceSplitter(trace_format)
    released = [splitter.feed_split(*delta) for delta in deltas] + [splitter.finish()]
    return "".join(t for t, _ in released), "".join(a for _, a in released)


@pytest.mark.parametrize(
    ("reasoning", "content"),
    [
        ("\nsteps\n", "\n\nanswer"),
        ("steps", "answer"),
        ("", "\n\nHello!"),
        ("\n", "Hello <think> and </think>"),
        ("<think>\nsteps\n", "\n\nanswer"),
        ("\n<think>\nsteps\n", "\n\n    code"),
        ("a < b </thi", "answer"),
        ("steps", ""),
        ("", ""),
        ("思考\n", "\n\n答案 😀"),
    ],
)
def test_engine_split_replies_agree_with_raw_ones(reasoning: str, content: str) -> None:
    """An engine's own `reasoning` and `content`, in any pieces, give what the raw text gives."""
    raw = f"{reasoning}</think>{content}" if content else reasoning
    expected = oracle(raw, opened=True)
    deltas = [(letter, "") for letter in reasoning] + [("", letter) for letter in content]
    assert feed_split([(reasoning, content)]) == expected
    assert feed_split([(reasoning, ""), ("", content)]) == expected
    assert feed_split(deltas) == expected


def test_an_engine_that_turns_out_to_split_is_followed() -> None:
    """A `reasoning` delta settles it, whatever the replica was taken for."""
    assert feed_split([("steps ", ""), ("on", ""), ("", "\n\nx")], OPENED) == ("steps on", "x")


@pytest.mark.parametrize("pieces", [["</think>\n\nanswer"], ["</thi", "nk>", "\n\n", "answer"]])
def test_a_closing_tag_that_slips_into_content_is_dropped(pieces: list[str]) -> None:
    """vLLM's splitter does that when stop strings delay the text behind the token ids."""
    assert feed_split([("steps", ""), *[("", piece) for piece in pieces]]) == ("steps", "answer")


def test_choices_do_not_share_state() -> None:
    """Several choices at once: each has its own splitter."""
    first, second = TraceSplitter(OPENED), TraceSplitter(OPENED)
    assert first.feed("a</think>b") == ("a", "b")
    assert second.feed("c") == ("c", "")
    assert (first.answering, second.answering) == (True, False)


IDS = TraceFormat(opened_by_template=True, open_id=1, close_id=2)


@pytest.mark.parametrize(
    ("trace_format", "ids", "expected"),
    [
        (IDS, [5, 6, 7, 2, 8, 9], 3),
        (IDS, [1, 5, 6, 2, 8], 2),
        (IDS, [2, 8], 0),
        (IDS, [5, 6], 2),
        (IDS, [5, 2, 8, 1, 9, 2], 1),
        (TraceFormat(opened_by_template=True), [5, 6, 2, 8], 4),
        (TraceFormat(opened_by_template=False), [5, 6, 2, 8], 0),
        (TraceFormat(opened_by_template=False, open_id=1, close_id=2), [2, 1, 8], 0),
        (TraceFormat(opened_by_template=False, open_id=1, close_id=2), [8, 9], 0),
        (TraceFormat(opened_by_template=False, open_id=1, close_id=2), [1, 5, 2, 8], 1),
    ],
)
def test_reasoning_tokens_are_those_between_the_tags(
    trace_format: TraceFormat, ids: list[int], expected: int
) -> None:
    """Only those inside the trace count, the tags themselves not."""
    assert num_reasoning_tokens(ids, trace_format) == expected
    assert num_reasoning_tokens(array("I", ids), trace_format) == expected


@given(st.lists(st.sampled_from(["</think>", "</thi", "nk>", "<", "a", " b", "\n", "\n\n"])))
def test_after_the_router_closed_a_trace_one_tag_of_the_model_is_dropped(parts: list[str]) -> None:
    """It may think on and close the trace itself; wherever its text is cut into chunks."""
    text = "".join(parts)
    expected = _without_blank_lines(text.replace("</think>", "", 1))
    for size in (1, 2, 3, 7, 100):
        splitter = TraceSplitter(SPLIT)
        assert splitter.feed_split("thought", "") == ("thought", "")
        assert splitter.close() == ""
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        released = [splitter.feed_split("", piece) for piece in pieces] + [splitter.finish()]
        assert "".join(trace for trace, _ in released) == ""
        assert "".join(answer for _, answer in released) == expected, (text, size)
