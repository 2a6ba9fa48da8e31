"""Reading a reply: where thinking ends, and what the last `\\boxed{}` holds. Pure."""


def split_reply(text: str) -> tuple[str, str | None]:
    """Raw completion text → (thinking, content); content is None if thinking never closed."""
    thinking, closed, content = text.partition("</think>")
    thinking = thinking.removeprefix("<think>").strip("\n")
    return thinking, content.strip() if closed else None


def extract_boxed(text: str) -> str | None:
    """The contents of the last complete `\\boxed{…}`, nested braces kept; None without one."""
    start = text.rfind("\\boxed{")
    while start >= 0:
        depth, opening = 0, start + len("\\boxed")
        for at in range(opening, len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                return text[opening + 1 : at].strip()
        start = text.rfind("\\boxed{", 0, start)
    return None
