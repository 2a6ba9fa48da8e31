"""Who is refused while a router drains."""

from __future__ import annotations

import pytest

from serve.drain import Drain
from serve.errors import ShuttingDown


def refuses(drain: Drain, *, could_know: bool) -> bool:
    try:
        drain.refuse(could_know=could_know)
    except ShuttingDown:
        return True
    return False


@pytest.mark.parametrize(
    ("steps", "who_could_know", "who_could_not"),
    [
        ([], False, False),
        (["begin"], True, False),
        (["begin", "close"], True, True),
        (["begin", "expire"], True, True),
    ],
)
def test_who_could_not_know_is_taken_until_the_drain_is_closed(
    steps: list[str], who_could_know: bool, who_could_not: bool
) -> None:
    drain = Drain()
    for step in steps:
        getattr(drain, step)()
    assert refuses(drain, could_know=True) is who_could_know
    assert refuses(drain, could_know=False) is who_could_not
