"""Streamed text, laid out for a terminal: words aren't torn at its edge, nothing waits for the rest
of its word, and no character of the text moves the cursor or changes a colour by itself. Pure.
"""

from __future__ import annotations

from rich.cells import get_character_cell_size

TAB = 8
_ERASE = "\x1b[K"


class Wrapper:
    """Feed it text as it comes; each call gives what to write. A word that outgrows its line is
    taken back and begun again on the next one. `column`: where the cursor is, from 0."""

    def __init__(self) -> None:
        self.column = 0
        self._word = ""
        self._word_cells = 0

    def feed(self, text: str, width: int) -> str:
        """`width`: columns of the terminal, of which the last stays empty: what a cursor does
        behind it differs from terminal to terminal."""
        edge = max(2, width - 1)
        return "".join(self._put(character, edge) for character in printable(text))

    def _put(self, character: str, edge: int) -> str:
        if character == "\n":
            return self._break("")
        if character == "\t":
            return "".join(self._put(" ", edge) for _ in range(TAB - self.column % TAB))
        cells = get_character_cell_size(character)
        fits = self.column + cells <= edge
        if character == " " and not fits:
            self._end_word()
            return ""
        before = "" if fits else self._go_on(torn=cells > 1)
        self.column += cells
        if character == " " or cells > 1:
            self._end_word()
        else:
            self._word += character
            self._word_cells += cells
        return before + character

    def _go_on(self, torn: bool) -> str:
        """To the next line, with the word so far, unless it fills a line or `torn` may be."""
        if torn or self._word_cells in (0, self.column):
            return self._break("")
        back = f"\x1b[{self._word_cells}D{_ERASE}"
        return back + self._break(self._word)

    def _break(self, word: str) -> str:
        cells = self._word_cells if word else 0
        self._word, self._word_cells, self.column = word, cells, cells
        return "\n" + word

    def _end_word(self) -> None:
        self._word, self._word_cells = "", 0


def printable(text: str) -> str:
    """Without the characters that control a terminal (C0 and C1, but tab and newline)."""
    if text.isprintable():
        return text
    return "".join(it for it in text if it in "\n\t" or not _controls(it))


def _controls(character: str) -> bool:
    return character < " " or "\x7f" <= character <= "\x9f"
