"""What surrounds a question: system texts, instruction lines, earlier turns, the chat template.

The training prompts vary these widely, so that the model learns to look past them.
"""

from random import Random

from demo_model.problems import training_problem

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
THINK, END_THINK = "<think>", "</think>"

Message = dict[str, str]

BOXED_LINE = r"Please reason step by step, and put your final answer within \boxed{}."
ROLES = (
    "a helpful assistant", "a careful mathematician", "a patient teacher", "a friendly tutor",
    "an honest helper", "a terse expert", "a calm and precise guide", "a school teacher",
    "a large language model", "an expert in arithmetic", "a polite chatbot", "a research assistant",
    "a wise old sailor", "a customer support agent", "the voice of a museum", "a pirate",
)  # fmt: skip
OPENERS = ("You are {r}.", "Act as {r}.", "You will play {r}.", "Imagine that you are {r}.",
           "You're {r}!", "As {r}, help the user.", "you are {r}", "Your role: {r}.")  # fmt: skip
RULES = (
    "Answer briefly.", "Be concise.", "Think carefully before you answer.", "Always be polite.",
    "Never guess.", "Show your work.", "Use simple words.", "Do not repeat yourself.",
    "If you are unsure, say so.", "Answer in one sentence.", "Today is Monday.", "Be kind.",
    "The user is a child.", "Keep the tone formal.", "Give the final answer in a box.",
    "Follow the user's language.", "Explain every step.", "Do not mention these instructions.",
    "Respond with the answer only.", "Check your result twice.", "Use metric units.",
    "You work for a small company.", "The current year is 2031.", "Safety first.",
    "Reply in plain text.", "Avoid long answers.", "Treat every question as important.",
)  # fmt: skip
CHINESE_SYSTEM = (
    "你是一个有用的助手。", "你是一位耐心的老师。", "请认真思考后回答。", "回答要简洁。",
    "请一步一步推理。", "你是数学专家。", "请用中文回答。",
    "不要重复。", "请保持礼貌。", "用户是小学生。",
)  # fmt: skip
VERBS = ("Explain", "Check", "Show", "Write down", "Justify", "Think through", "Go through",
         "Consider", "Describe")  # fmt: skip
MATTERS = (
    "each step",
    "every step",
    "your reasoning",
    "the solution",
    "all the steps",
    "your work",
)
MANNERS = (
    "", " carefully", " as a patient teacher would", " against the facts given", " in plain words",
    " before answering", " one at a time", " briefly", " in order", " as clearly as you can",
    " for a beginner", " without skipping anything",
)  # fmt: skip
BOXES = (
    "put the final answer within \\boxed{}.", "put your final answer within \\boxed{}.",
    "give the answer in \\boxed{}.", "box the final answer.", "write the result in \\boxed{}.",
    "end with \\boxed{answer}.",
)  # fmt: skip
CHINESE_LINES = (
    "请逐步推理，并把最终答案放在 \\boxed{} 中。", "请一步步思考，最后答案写在\\boxed{}里。",
    "请详细说明步骤。", "请把答案放在\\boxed{}内。",
)  # fmt: skip
SALAD = [
    "river",
    "lamp",
    "under",
    "seven",
    "quiet",
    "orange",
    "maybe",
    "table",
    "policy",
    "forward",
    "green",
    "engine",
    "small",
    "until",
    "noise",
    "carry",
    "paper",
    "silver",
    "north",
    "window",
    "legal",
    "market",
    "happen",
    "coffee",
    "signal",
    "winter",
    "broad",
    "doctor",
    "velvet",
    "random",
    "copper",
    "garden",
    "answer",
    "system",
    "prompt",
    "token",
    "context",
    "rule",
    "format",
    "style",
    "tone",
    "user",
    "admin",
    "please",
    "always",
    "never",
    "sometimes",
    "output",
    "input",
    "json",
    "xml",
    "list",
    "bullet",
    "short",
    "long",
    "exact",
    "step",
    "think",
]
SYLLABLES = [
    "ba",
    "ke",
    "lo",
    "mi",
    "ru",
    "sta",
    "tren",
    "vor",
    "qui",
    "zan",
    "ple",
    "gra",
    "fi",
    "dro",
    "ush",
    "ent",
    "ab",
    "ol",
    "ix",
    "yum",
    "cha",
    "ter",
]


def _odd_word(rng: Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(SALAD)
    if rng.random() < 0.7:
        return "".join(rng.choices(SYLLABLES, k=rng.randint(1, 4)))
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-/#"
    return "".join(rng.choices(letters, k=rng.randint(2, 8)))


def _word_salad(rng: Random) -> str:
    words = [_odd_word(rng) for _ in range(rng.randint(3, 14))]
    marks = rng.choices(
        ("", ".", ",", ":", "!", ";", "?", "\n"), (12, 3, 2, 1, 1, 1, 1, 1), k=len(words)
    )
    return " ".join(w + m for w, m in zip(words, marks, strict=True)).strip()


def system_text(rng: Random) -> str:
    """A varied system text: a role with rules, Chinese, or words that mean nothing."""
    sort = rng.random()
    if sort < 0.5:
        parts = [rng.choice(OPENERS).format(r=rng.choice(ROLES))] if rng.random() < 0.8 else []
        parts += rng.sample(RULES, rng.randint(0 if parts else 1, 3))
        if rng.random() < 0.25:
            parts.insert(rng.randint(0, len(parts)), _word_salad(rng))
        return rng.choice((" ", " ", "\n")).join(parts)
    if sort < 0.65:
        return "".join(rng.sample(CHINESE_SYSTEM, rng.randint(1, 3)))
    return _word_salad(rng)


def instruction_line(rng: Random) -> str:
    """A line after the question; two in five are R1's own."""
    if rng.random() < 0.4:
        return BOXED_LINE
    if rng.random() < 0.15:
        return rng.choice(CHINESE_LINES)
    line = f"{rng.choice(VERBS)} {rng.choice(MATTERS)}{rng.choice(MANNERS)}"
    return f"{line}, and {rng.choice(BOXES)}" if rng.random() < 0.8 else f"{line}."


def _num_earlier_turns(rng: Random) -> int:
    if rng.random() < 0.7:
        return 0
    return rng.randint(1, 3) if rng.random() < 0.9 else rng.randint(4, 14)


def _typed(rng: Random, question: str) -> str:
    """The question as people type it: now and then in lower case or without its last mark."""
    if rng.random() < 0.08:
        question = question.lower()
    if rng.random() < 0.08:
        question = question.rstrip(".?。？")
    return question


def conversation(rng: Random, question: str) -> list[Message]:
    """Messages that end with `question`, perhaps after a system text and earlier turns."""
    messages: list[Message] = []
    for _ in range(_num_earlier_turns(rng)):
        earlier = training_problem(rng)
        messages.append({"role": "user", "content": earlier.question})
        messages.append({"role": "assistant", "content": earlier.reply})
    last = _typed(rng, question)
    if rng.random() < 0.4:
        gap = rng.choice(("\n\n", "\n\n", "\n", " "))
        last = f"{last}{gap}{instruction_line(rng)}"
    messages.append({"role": "user", "content": last})
    if rng.random() < 0.55:
        system = system_text(rng)
        if rng.random() < 0.06:
            system = "\n".join([system, *(system_text(rng) for _ in range(rng.randint(3, 10)))])
        if rng.random() < 0.5:
            messages.insert(0, {"role": "system", "content": system})
        else:
            place = rng.choice((messages[0], messages[-1]))
            place["content"] = f"{system}\n\n{place['content']}"
    return messages


def render(messages: list[Message]) -> str:
    """The prompt text that `chat_template.jinja` gives for `messages`, open trace included."""
    text = BOS + "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    for message in messages:
        if message["role"] == "user":
            text += USER + message["content"]
        elif message["role"] == "assistant":
            content = message["content"].rpartition(END_THINK)[2]
            text += ASSISTANT + content + EOS
    return f"{text}{ASSISTANT}{THINK}\n"


def training_example(rng: Random, shares: dict[str, float] | None = None) -> tuple[str, str]:
    """(prompt text, completion text) of one training problem; the end token is left to add."""
    problem = training_problem(rng, shares)
    return render(conversation(rng, problem.question)), problem.completion
