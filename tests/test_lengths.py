"""What is usual, from what was."""

from __future__ import annotations

from serve.lengths import MIN_LENGTHS, NUM_LENGTHS, UsualLengths


def test_what_is_usual_is_what_few_of_the_last_generations_exceed() -> None:
    """Of each preset for itself; unknown from a few."""
    lengths = UsualLengths()
    for length in range(MIN_LENGTHS - 1):
        lengths.add("chat", length)
    assert lengths.usual("chat") is None
    for length in range(1000, 1000 + NUM_LENGTHS):
        lengths.add("chat", length)
    assert lengths.usual("chat") == 1000 + int(0.95 * NUM_LENGTHS)
    assert lengths.usual("math") is None
