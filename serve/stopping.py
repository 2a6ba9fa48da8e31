"""Stop strings, found in the answer as it streams. Pure.

The router looks for them itself instead of passing them to the engine, for two reasons. They should
end the answer, never the trace. And vLLM holds text back while a stop string may be forming, at
which its reasoning parsers, which go by token ids, cut the text in the wrong place and lose some
(seen with 0.32: `deepseek_r1` with `stop` puts the end of the trace into `content`).
"""

from __future__ import annotations

from collections.abc import Sequence


class StopFinder:
    """Feed it one choice's answer; it releases what no stop string can still begin in.

    The string that is complete first wins; of two that end together, the longer.
    """

    __slots__ = ("_held", "_include", "_stops", "found")

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        """`include`: leave the stop string in the text (`include_stop_str_in_output`)."""
        self._stops = stops
        self._include = include
        self._held = ""
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """The text to release; nothing more once `found` is set."""
        if self.found is not None:
            return ""
        text, self._held = self._held + text, ""
        ends = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            end, at, self.found = min(ends)
            return text[: end if self._include else at]
        cut = len(text) - self._num_open(text)
        self._held = text[cut:]
        return text[:cut]

    def finish(self) -> str:
        """The output has ended: what was held back is text after all."""
        held, self._held = self._held, ""
        return held

    def _num_open(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max(map(len, self._stops)) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
