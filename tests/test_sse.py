"""The event decoder, cut at every point."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.sse import SSEDecoder, SSETooLong, encode

STREAMS = [
    (b'data: {"a":1}\n\ndata: [DONE]\n\n', [b'{"a":1}', b"[DONE]"]),
    (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    (b": ping\n\ndata: a\n\n", [b"a"]),
    (b"event: x\nid: 1\ndata: a\n\n", [b"a"]),
    (b"data: a\ndata: b\n\n", [b"a\nb"]),
    (b"data:a\n\ndata\n\n", [b"a", b""]),
    (b"data:  two spaces\n\n", [b" two spaces"]),
    ("data: 思考 😀\n\n".encode(), ["思考 😀".encode()]),
    (b"database: no\n\n", []),
    (b"data: unfinished", []),
    (b"\n\n\n\ndata: a\n\n", [b"a"]),
    (b"", []),
]


def decode(*chunks: bytes) -> list[bytes]:
    decoder = SSEDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


@pytest.mark.parametrize(("stream", "events"), STREAMS)
def test_every_split_point_gives_the_same_events(stream: bytes, events: list[bytes]) -> None:
    """Whole, byte by byte, and cut anywhere in two or three."""
    assert decode(stream) == events
    assert decode(*[stream[i : i + 1] for i in range(len(stream))]) == events
    for a, b in itertools.combinations_with_replacement(range(len(stream) + 1), 2):
        assert decode(stream[:a], stream[a:b], stream[b:]) == events, (a, b)


LINES = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n"))


@given(st.lists(LINES, max_size=5), st.data())
def test_what_is_encoded_comes_back(texts: list[str], data: st.DataObject) -> None:
    """Encoding events and decoding them in any pieces gives the events."""
    stream = b"".join(encode(text.encode()) for text in texts)
    cut = data.draw(st.integers(0, len(stream)))
    assert decode(stream[:cut], stream[cut:]) == [text.encode() for text in texts]


COMMENTED = b': r1.votes {"counted": 1}\n\n:\n\n: a\ndata: b\n:c\n\ndata: d\n\n: unfinished'


@pytest.mark.parametrize("size", range(1, len(COMMENTED) + 1))
def test_comments_are_told_to_who_asks(size: int) -> None:
    """Beside the events, in whatever pieces they come."""
    told: list[bytes] = []
    decoder = SSEDecoder(on_comment=told.append)
    pieces = [COMMENTED[at : at + size] for at in range(0, len(COMMENTED), size)]
    assert [event for piece in pieces for event in decoder.feed(piece)] == [b"b", b"d"]
    assert told == [b'r1.votes {"counted": 1}', b"", b"a", b"c"]


def test_an_endless_event_is_refused() -> None:
    """Memory is bounded whatever an engine sends."""
    decoder = SSEDecoder(max_event_bytes=100)
    decoder.feed(b"data: " + b"x" * 90)
    with pytest.raises(SSETooLong):
        decoder.feed(b"xxxxxxxx")
