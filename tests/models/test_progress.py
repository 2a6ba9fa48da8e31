from __future__ import annotations

import io

from rich.console import Console

from serve.models.progress import LINE_INTERVAL_S, Shown


def test_without_a_terminal_a_line_comes_now_and_then() -> None:
    """At the beginning, and every ten seconds; notices as they come."""
    stream, now = io.StringIO(), 0.0
    with Shown(Console(file=stream), lambda: now) as shown:
        shown.begin("Fetching org/[model]", 100_000, 20_000)
        for _ in range(10):
            now += LINE_INTERVAL_S / 5
            shown.advance(5_000)
        shown.tell("the connection was cut; trying again in 1.0 s.")
    assert stream.getvalue().splitlines() == [
        "Fetching org/[model]: 20.0 kB of 100.0 kB",
        "Fetching org/[model]: 45.0 kB of 100.0 kB",
        "Fetching org/[model]: 70.0 kB of 100.0 kB",
        "the connection was cut; trying again in 1.0 s.",
    ]


def test_on_a_terminal_there_is_a_bar() -> None:
    """With sizes; it takes back what has to come again."""
    stream = io.StringIO()
    with Shown(Console(file=stream, force_terminal=True, width=100)) as shown:
        shown.begin("Fetching org/[model]", 2_000_000)
        shown.advance(1_500_000)
        shown.advance(-500_000)
    text = stream.getvalue()
    assert "Fetching org/[model]" in text
    assert "1.0/2.0 MB" in text
