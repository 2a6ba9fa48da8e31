"""Ways to serve the same model beside each other: the guides', plain vLLM, and routers over it.

One run, one machine, the same questions and lengths, `--concurrency` clients that never pause; the
contenders take turns within each round. Sampling is the same for all: temperature 0.6, top_p 0.95,
and the top_k 50 that transformers adds by itself.

- guides: transformers' `generate()` in a Gradio app, one request at a time (`guides_app`)
- vllm: the engine itself; all below share it
- litellm, vllm-router, r1-serve: routers over that engine

`--model demo` is the demo model, `--model 1.5b` the shape of DeepSeek-R1-Distill-Qwen-1.5B with
random weights (`shape`). benchmarks/baselines/summary.py defines the figures.

    python -m benchmarks.baselines --model demo
    python -m benchmarks.baselines --model 1.5b --check
    python -m benchmarks.baselines --model 1.5b --only vllm --engine "enforce_eager = true"
"""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.baselines.contenders import GUIDES, MODELS, NAMES, Model, Stack, Up
from benchmarks.baselines.drive import questions
from benchmarks.baselines.summary import Row, Sample, judge, render, sample_of, summarise
from benchmarks.machine import Machine, Watch
from benchmarks.options import parser_for
from benchmarks.peers import ROOT, VENVS
from benchmarks.stats import without_nan


@dataclass(frozen=True, slots=True)
class Settings:
    model: str = "demo"
    only: str = ""  # contenders; empty: those of the model
    rounds: int = 3
    concurrency: int = 16
    mean_tokens: int = 0  # 0: the model's own, as below
    questions: int = 0
    questions_for_guides: int = 0
    engine: str = ""  # further settings of [engine], apart by ";"
    cache: str = str(VENVS / "models")
    check: bool = False
    out: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What is printed in short and kept in full."""

    benchmark: str
    command: str
    began_at: str
    machine: dict[str, object]
    settings: Settings
    summary: dict[str, Row]
    rounds: dict[str, list[Sample]]


def sample(up: Up, num: int, mean_tokens: int) -> Sample:
    asked = questions(num, mean_tokens)
    before_s, watch = _router_cpu_s(up), Watch()
    drive = up.drive(asked)
    return sample_of(drive, asked, _router_cpu_s(up) - before_s, watch.others())


def _router_cpu_s(up: Up) -> float:
    return up.router.usage().cpu_s if up.router else math.nan


def measure(
    settings: Settings, model: Model, names: Sequence[str], rounds: dict[str, list[Sample]]
) -> None:
    """Puts each sample into `rounds` as it comes, so that an interruption loses only the last."""
    mean_tokens = settings.mean_tokens or model.mean_tokens
    numbers = dict.fromkeys(names, settings.questions or model.num_questions)
    numbers[GUIDES] = settings.questions_for_guides or model.num_for_guides
    with ExitStack() as exit_stack:
        stack = Stack(model, Path(settings.cache), settings.concurrency, exit_stack)
        engine = [line.strip() for line in settings.engine.split(";") if line.strip()]
        up = stack.start_all(names, engine)
        for running in up:
            warm_up = 1 if running.name == GUIDES else settings.concurrency
            running.drive(questions(warm_up, 16))
        rounds |= {running.name: [] for running in up}
        for number in range(settings.rounds):
            turn = number % len(up)  # who comes first changes, in case the machine gets slower
            for running in up[turn:] + up[:turn]:
                seen = sample(running, numbers[running.name], mean_tokens)
                rounds[running.name].append(seen)
                print(f"round {number + 1}/{settings.rounds}  {running.name:12}", end="")
                print(f" {seen.tokens_per_s:8.1f} tokens/s  TTFT {seen.ttft_p50_ms:.0f} ms", end="")
                print(f"  others {seen.others_cores:.2f} cores", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_for(Settings(), "benchmarks.baselines", __doc__ or "")
    settings = Settings(**vars(parser.parse_args(argv)))
    model = MODELS.get(settings.model)
    if model is None:
        parser.error(f"no model {settings.model!r}; there are: {', '.join(MODELS)}")
    names = (settings.only or model.contenders).split(",")
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"no contender {unknown[0]!r}; there are: {', '.join(NAMES)}")
    os.chdir(ROOT)
    began_at = datetime.now(UTC).isoformat(timespec="seconds")
    rounds: dict[str, list[Sample]] = {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `timeout` ends it as Ctrl-C does
    try:
        measure(settings, model, names, rounds)
    except KeyboardInterrupt:
        print("stopped; what follows is of the rounds until then", file=sys.stderr)
    summary = summarise(rounds)
    if not summary:
        return 130
    command = shlex.join(["python", "-m", "benchmarks.baselines", *(argv or sys.argv[1:])])
    print(f"\n{began_at}  {command}\n\n{render(summary)}\n")
    machine = msgspec.to_builtins(Machine.here())
    report = Report("baselines", command, began_at, machine, settings, summary, rounds)
    kept = without_nan(asdict(report))
    out = Path(settings.out or f"bench-results/baselines-{settings.model}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(kept, indent=1, allow_nan=False) + "\n")
    failures = judge(summary) if settings.check else []
    for failure in failures:
        print(f"check failed: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
