"""What the rounds come to: a sample for each contender and round, and a row for each contender.

Definitions
- tokens/s: generated tokens of the replies over the time from the first request sent to the last
  reply's end.
- x plain, x guides: tokens/s over that of plain vLLM, of the guides' way, in the same round.
- TTFT: from sending a request to the first text of its reply. The guides' way sends nothing before
  the whole reply, so there it is E2E. "over plain": p50 less plain vLLM's p50 in the same round.
- E2E: from sending a request to its reply's end.
- router ms: CPU time that the process before the engine took, per 1,000 generated tokens.
- others: cores that processes took which are not the benchmark's; a round with much of it is
  worthless.

Every figure of a row is the median over rounds. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks.baselines.contenders import GUIDES, NAMES, OURS, VLLM
from benchmarks.baselines.drive import Drive, Question
from benchmarks.stats import median_of, paired_difference, paired_ratio, percentile, table


@dataclass(frozen=True, slots=True)
class Sample:
    """One contender in one round."""

    tokens_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    e2e_p50_s: float
    e2e_p99_s: float
    router_ms_per_1k_tokens: float
    num_tokens: int
    num_requests: int
    num_failed: int
    num_unequal: int
    """Replies with another number of tokens than asked for: their work was not equal."""
    others_cores: float


def sample_of(
    drive: Drive, asked: Sequence[Question], router_cpu_s: float, others_cores: float
) -> Sample:
    """`router_cpu_s` is NaN where there is no router."""
    good = [record for record in drive.records if record.ok]
    num_tokens = sum(record.output_tokens for record in good)
    ttft_s = [record.ttft_s for record in good if record.ttft_s is not None]
    e2e_s = [record.e2e_s for record in good if record.e2e_s is not None]
    pairs = zip(drive.records, asked, strict=True)
    return Sample(
        tokens_per_s=num_tokens / drive.wall_s,
        ttft_p50_ms=1000 * percentile(ttft_s, 50),
        ttft_p99_ms=1000 * percentile(ttft_s, 99),
        e2e_p50_s=percentile(e2e_s, 50),
        e2e_p99_s=percentile(e2e_s, 99),
        router_ms_per_1k_tokens=1e6 * router_cpu_s / num_tokens if num_tokens else math.nan,
        num_tokens=num_tokens,
        num_requests=len(drive.records),
        num_failed=len(drive.records) - len(good),
        num_unequal=sum(record.ok and record.output_tokens != q.num_tokens for record, q in pairs),
        others_cores=others_cores,
    )


Row = dict[str, float]
TOLD_OF_TTFT = 0.02
"""A smaller part of TTFT can't be told from noise: a step of the 1.5B's shape takes 0.3 s here."""


def summarise(rounds: Mapping[str, Sequence[Sample]]) -> dict[str, Row]:
    """A row for each contender: medians, and ratios that are paired by round. Of a run that was
    stopped only the rounds count that all contenders had, or in the first those that had theirs."""
    num = min((len(samples) for samples in rounds.values() if samples), default=0)
    columns = {
        name: [asdict(sample) for sample in samples[:num]]
        for name, samples in rounds.items()
        if samples
    }

    def column(name: str, key: str) -> list[float]:
        return [sample[key] for sample in columns[name]] if name in columns else []

    rows = {}
    for name, samples in columns.items():
        row = {key: median_of(column(name, key)) for key in samples[0]}
        for base, title in ((VLLM, "of_plain"), (GUIDES, "of_guides")):
            own, bases = column(name, "tokens_per_s"), column(base, "tokens_per_s")
            row[title] = paired_ratio(own, bases) if bases else math.nan
        own, bases = column(name, "ttft_p50_ms"), column(VLLM, "ttft_p50_ms")
        row["added_ttft_p50_ms"] = paired_difference(own, bases) if bases else math.nan
        rows[name] = row
    return rows


_COLUMNS = (
    ("tokens/s", "tokens_per_s", ".1f"),
    ("x plain", "of_plain", ".3f"),
    ("x guides", "of_guides", ".1f"),
    ("TTFT p50 ms", "ttft_p50_ms", ".1f"),
    ("over plain", "added_ttft_p50_ms", "+.1f"),
    ("p99 ms", "ttft_p99_ms", ".1f"),
    ("E2E p50 s", "e2e_p50_s", ".2f"),
    ("router ms/1k", "router_ms_per_1k_tokens", ".0f"),
    ("failed", "num_failed", ".0f"),
    ("unequal", "num_unequal", ".0f"),
    ("others", "others_cores", ".2f"),
)


def render(summary: Mapping[str, Row]) -> str:
    lines = [["", *(title for title, _, _ in _COLUMNS)]]
    for name, row in summary.items():
        cells = [
            "-" if math.isnan(row[key]) else format(row[key], form) for _, key, form in _COLUMNS
        ]
        lines.append([NAMES[name], *cells])
    return table(lines)


def judge(summary: Mapping[str, Row]) -> list[str]:
    """Which of our claims doesn't hold, in words; what was not measured is not judged."""
    ours = summary.get(OURS)
    missing = [name for name in (OURS, VLLM, GUIDES) if name not in summary]
    if ours is None or missing:
        return [f"{name} was not measured" for name in missing]
    failures = [
        f"{row['num_failed'] + row['num_unequal']:.0f} replies of {name} failed or were not as long"
        " as asked"
        for name, row in summary.items()
        if row["num_failed"] or row["num_unequal"]
    ]
    claims = (
        (ours["of_guides"] >= 10, ours["of_guides"], "times the guides' tokens/s; 10 is claimed"),
        (ours["of_plain"] >= 0.97, ours["of_plain"], "of plain vLLM's tokens/s; 0.97 is claimed"),
        (
            ours["added_ttft_p50_ms"] <= max(5.0, TOLD_OF_TTFT * summary[VLLM]["ttft_p50_ms"]),
            ours["added_ttft_p50_ms"],
            "ms over plain vLLM's TTFT p50",
        ),
    )
    return failures + [
        f"{value:.2f} {what}"
        for holds, value, what in claims
        if not holds and not math.isnan(value)
    ]
