"""What a chat says about replies. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from serve.terminal.reply import Reply, Tally

MIN_RATE_S = 0.01
"""Over less, a rate tells nothing."""
MAX_ANSWER = 24
"""Characters of an answer in a tally."""

_RECOVERED = {
    "length": "Thinking ran out of tokens; it was closed and answered from there.",
    "eos": "The model stopped in the middle of a thought; it was made to answer.",
    "repetition": "Thinking went in circles; it was cut and answered from there.",
}


def shortened(text: str, length: int) -> str:
    """On one line, of so many characters at most."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")


def seconds(duration_s: float) -> str:
    if duration_s < 1:
        return f"{duration_s:.2f} s"
    return f"{duration_s:.1f} s" if duration_s < 10 else f"{duration_s:.0f} s"


def tally_line(tally: Tally) -> str:
    groups = ((shortened(it.answer or "?", MAX_ANSWER), it.count) for it in tally.answers)
    counts = ", ".join(f"{answer} ×{count}" for answer, count in groups)
    return f"{tally.counted} of at most {tally.n} votes{counts and ': '}{counts}"


def progress(reply: Reply, now_s: float) -> str:
    """While nothing of it is shown."""
    if reply.tally is not None:
        doing = tally_line(reply.tally)
    else:
        doing = "waiting" if reply.first_s is None else "thinking"
    return f"{doing} · {now_s - reply.asked_s:.0f} s"


def summary(reply: Reply) -> str:
    """The figures of a complete reply: exact tokens, times, the preset."""
    parts = []
    if (usage := reply.usage) is not None:
        num_answer = usage.completion_tokens - usage.num_thinking
        parts.append(f"thinking {usage.num_thinking:,} tokens, answer {num_answer:,}")
    if reply.first_s is not None and reply.tally is None:
        parts.append(f"first token {seconds(reply.first_s - reply.asked_s)}")
    if (rate := tokens_per_s(reply)) is not None:
        parts.append(f"{rate:.0f} tokens/s")
    if reply.preset:
        parts.append(f"preset {reply.preset}")
    if reply.tally is not None:
        parts.append(tally_line(reply.tally))
    return " · ".join(filter(None, parts))


def tokens_per_s(reply: Reply) -> float | None:
    """After the first token; of a vote, of all samples together. None where that says nothing."""
    since_s = reply.asked_s if reply.tally is not None else reply.first_s
    if reply.usage is None or since_s is None or reply.ended_s is None:
        return None
    took_s = reply.ended_s - since_s
    return reply.usage.completion_tokens / took_s if took_s >= MIN_RATE_S else None


def events(reply: Reply) -> Iterator[str]:
    """What happened on the way to a complete reply, if anything did."""
    note, budget = reply.note, reply.budget_tokens
    if recovered := _RECOVERED.get(note.recovered or ""):
        yield recovered
    elif reply.usage is not None and budget and reply.usage.num_thinking >= budget:
        yield f"Thinking reached its budget of {budget:,} tokens and was closed."
    if reply.budget_source == "brownout":
        yield f"The server is busy: thinking was limited to {budget or 0:,} tokens."
    if note.failovers:
        times = f" {note.failovers} times" if note.failovers > 1 else ""
        yield f"An engine failed on the way{times}; another went on."
    if reply.finish == "length":
        yield "The answer reached the limit of tokens."
    if not reply.answer:
        yield "The model said nothing after its thinking."


def toolbar(model: str, preset: str, options: dict[str, str], width: int) -> str:
    """What holds for the next question, and the keys; where there is no room for all of it, what
    can be done without is left out."""
    now = [f"preset {preset}", *(f"{name} {value}" for name, value in options.items())]
    keys = "Enter sends, Alt-Enter: new line, /help"
    forms = ([model, *now, keys], [*now, keys], [model, *now, "/help"], [*now, "/help"], now)
    lines = [" · ".join(filter(None, form)) for form in forms]
    return next((line for line in lines if len(line) < width), lines[-1])
