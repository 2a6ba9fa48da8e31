"""Scoring of replies: right or wrong, closed, well formed, and what voting makes of them. Pure."""

from collections import Counter
from dataclasses import asdict, dataclass

from demo_model.answers import extract_boxed, split_reply
from demo_model.problem import Problem
from demo_model.talk import REPLIES


@dataclass(frozen=True, slots=True)
class Sample:
    """One generation: thinking, content (None if thinking never closed), and why it ended."""

    thinking: str
    content: str | None
    finish_reason: str

    @property
    def closed(self) -> bool:
        return self.content is not None and self.finish_reason == "stop"

    @property
    def answer(self) -> str | None:
        return extract_boxed(self.content or "")


def read_choice(choice: dict[str, object]) -> Sample:
    """A chat completion's choice, thinking still in the content or already split off."""
    message = choice["message"]
    if not isinstance(message, dict):
        raise TypeError(f"choice.message is {type(message).__name__}, not an object")
    content = message.get("content")
    reason = str(choice.get("finish_reason"))
    thinking = message.get("reasoning_content") or message.get("reasoning")
    if thinking is not None or (content and "</think>" not in content):
        return Sample(thinking or "", content.strip() if content else None, reason)
    return Sample(*split_reply(content or ""), reason)


def is_right(problem: Problem, sample: Sample) -> bool:
    """The boxed answer is the problem's; for talk, the reply is of the right sort."""
    if problem.answer is None:
        return sample.content in REPLIES[str(problem.key[0])].values()
    return sample.answer == problem.answer


def is_well_formed(problem: Problem, sample: Sample) -> bool:
    """Closed, with exactly one box for a problem and none for talk."""
    num_boxes = (sample.content or "").count("\\boxed{")
    return sample.closed and num_boxes == (0 if problem.answer is None else 1)


def majority(samples: list[Sample]) -> str | None:
    """The commonest boxed answer, the earliest among equals."""
    votes = Counter(s.answer for s in samples if s.answer is not None)
    return votes.most_common(1)[0][0] if votes else None


@dataclass(frozen=True, slots=True)
class Score:
    """Shares from 0 to 1 over one suite. `scatter` is the mean number of different wrong answers
    among a problem's wrong samples divided by their number: 1 means that no two agree."""

    problems: int
    samples: int
    accuracy: float
    majority: float | None
    closed: float
    well_formed: float
    scatter: float | None

    def as_json(self) -> dict[str, object]:
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def score(problems: list[Problem], replies: list[list[Sample]]) -> Score:
    """`replies[i]` are the samples of `problems[i]`."""
    pairs = [(p, s) for p, samples in zip(problems, replies, strict=True) for s in samples]
    votes = None
    if len(pairs) > len(problems) and all(p.answer is not None for p in problems):
        won = [majority(s) == p.answer for p, s in zip(problems, replies, strict=True)]
        votes = _share(won)
    scatters = []
    for problem, samples in zip(problems, replies, strict=True):
        wrong = [s.answer for s in samples if not is_right(problem, s)]
        if len(wrong) > 1:
            scatters.append(len(set(wrong)) / len(wrong))
    return Score(
        problems=len(problems),
        samples=len(pairs),
        accuracy=_share([is_right(p, s) for p, s in pairs]),
        majority=votes,
        closed=_share([s.closed for _, s in pairs]),
        well_formed=_share([is_well_formed(p, s) for p, s in pairs]),
        scatter=sum(scatters) / len(scatters) if scatters else None,
    )


def _share(flags: list[bool]) -> float:
    return sum(flags) / len(flags)
