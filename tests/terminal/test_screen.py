"""What is written, and how little of it where a terminal can't do more."""

from __future__ import annotations

import io

import pytest

from serve.terminal.reply import Reply
from serve.terminal.screen import Screen
from serve.terminal.view import View

XTERM = {"TERM": "xterm"}


def write(env: dict[str, str]) -> str:
    out = io.StringIO()
    screen = Screen(out, env)
    screen.status("waiting")
    screen.stream("hm ", "2")
    screen.stream("m")
    screen.say("done", "31")
    return out.getvalue()


def test_a_status_makes_room_for_what_comes() -> None:
    """Text goes on where it was; what is said of it begins a line."""
    assert write(XTERM) == (
        "\x1b[2mwaiting\x1b[0m\r\x1b[K\x1b[2mhm \x1b[0mm\n\x1b[31mdone\n\x1b[0m"
    )


def test_colours_are_left_out_where_nobody_wants_them() -> None:
    assert write(XTERM | {"NO_COLOR": "1"}) == "waiting\r\x1b[Khm m\ndone\n"
    assert "\x1b[2m" in write(XTERM | {"NO_COLOR": ""})


@pytest.mark.parametrize("env", [{}, {"TERM": "dumb"}])
def test_a_terminal_that_can_only_print_gets_text_alone(env: dict[str, str]) -> None:
    assert write(env) == "hm m\ndone\n"


def test_a_status_stays_within_its_line() -> None:
    out = io.StringIO()
    Screen(out, XTERM | {"NO_COLOR": "1"}).status("好" * 100)
    assert out.getvalue() == "好" * 39 + "…"


def test_rows_have_no_markup() -> None:
    out = io.StringIO()
    Screen(out, XTERM).rows([("/preset [NAME]", "List [bold]them"), ("/new", "New\x1b.")])
    assert [line.rstrip() for line in out.getvalue().splitlines()] == [
        "/preset [NAME]  List [bold]them",
        "/new            New.",
    ]


def test_a_reply_that_is_put_off_counts_down() -> None:
    out = io.StringIO()
    view = View(Screen(out, {"TERM": "xterm", "NO_COLOR": "1"}), Reply(0.0), shows_thinking=True)
    view.tick(1.0)
    view.put_off("the server is full", 5.0)
    view.tick(2.4)
    view.tried_again()
    view.tick(6.0)
    assert out.getvalue().replace("\r\x1b[K", "|") == (
        "waiting · 1 s|The server is full.\nnext try in 3 s · Ctrl-C gives up|waiting · 6 s"
    )
