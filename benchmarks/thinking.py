"""What control over thinking gains: votes, recovery of cut-off thinking, the loop breaker.

One engine (the demo model on a CPU) with the router over it. Three experiments, each with and
without what is measured, side by side in one run:

- **votes**: held-out chains of sums at temperature 1, which single samples get wrong at random.
  Eight samples per problem are taken whole (`n: 8`), and counted offline; then the router votes
  over the same samples (the same seeds) with `votes`. Accuracy, and tokens as a share of those of
  all eight samples.
- **recovery**: mixed held-out problems with max_tokens forced small, with and without `recover`.
  Answered: the reply has content; boxed: it has an answer; accuracy: that answer is right.
- **loops**: the demo model hardly ever goes in circles by itself (at temperature 0, 3 of 6,768
  prompts ran to the limit). With `frequency_penalty: -2`, which rewards what was said before, it
  does on most: a stand-in for models that do. With and without `recover`: replies without content,
  and tokens.

    python -m benchmarks.thinking --out bench-results/thinking.json --plots docs/images
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from benchmarks.options import parser_for
from benchmarks.processes import Child, free_port
from benchmarks.stats import table
from demo_model.answers import extract_boxed
from demo_model.problem import Problem
from demo_model.problems import held_out_problems
from demo_model.sums import chain
from serve.settings import config_dir
from serve.tally import Ballot, Tally, Votes

NUM_SAMPLES = 8
TIMEOUT_S = 600.0

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    only: str = "votes,recovery,loops"
    problems: int = 300
    chain_lengths: str = "5,6,7,8"
    limits: str = "16,32,48,64,96,128"
    recovery_problems: int = 200
    max_tokens: int = 800
    loop_max_tokens: int = 2000
    concurrency: int = 24
    seed: int = 20261124
    config: str = ""
    out: str = "bench-results/thinking.json"
    plots: str = ""


class Client:
    """Chats with at most `concurrency` under way."""

    def __init__(self, session: aiohttp.ClientSession, url: str, concurrency: int) -> None:
        self._session = session
        self._url = f"{url}/v1/chat/completions"
        self._gate = asyncio.Semaphore(concurrency)
        self.concurrency = concurrency

    async def ask(self, question: str, **fields: Any) -> Json:
        """The reply, with the seconds that it took as `seconds`. Raises on any other status."""
        body = {"messages": [{"role": "user", "content": question}], **fields}
        async with self._gate:
            began_s = time.perf_counter()
            async with self._session.post(self._url, json=body) as response:
                reply: Json = await response.json()
                if response.status != 200:
                    raise RuntimeError(f"HTTP {response.status}: {reply}")
            return reply | {"seconds": time.perf_counter() - began_s}

    async def ask_all(self, questions: Sequence[str], fields: Sequence[Json]) -> list[Json]:
        asked = [self.ask(question, **its) for question, its in zip(questions, fields, strict=True)]
        return await asyncio.gather(*asked)


def content_of(reply: Json, index: int = 0) -> str:
    return reply["choices"][index]["message"]["content"] or ""


def share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def is_right(problem: Problem, content: str) -> bool:
    return extract_boxed(content) == problem.answer


# --- votes --------------------------------------------------------------------------------------


def chains(settings: Settings) -> list[Problem]:
    rng, found = Random(settings.seed), list[Problem]()
    lengths = [int(length) for length in settings.chain_lengths.split(",")]
    while len(found) < settings.problems:
        length = lengths[len(found) % len(lengths)]
        problem = chain(rng, "en", length=length, slip_rate=0.0)
        if problem.held_out:
            found.append(problem)
    return found


async def votes(client: Client, settings: Settings) -> Json:
    problems = chains(settings)
    questions = [problem.question for problem in problems]
    sampling = {"preset": "math", "temperature": 1.0, "top_p": 1.0}
    sampling |= {"max_tokens": settings.max_tokens}

    def seeded(**fields: Any) -> list[Json]:
        seeds = [settings.seed + 1000 * i for i in range(len(problems))]
        return [sampling | fields | {"seed": seed} for seed in seeds]

    whole = await client.ask_all(questions, seeded(n=NUM_SAMPLES, return_token_ids=True))
    all_tokens = [[len(choice["token_ids"]) for choice in reply["choices"]] for reply in whole]
    full = sum(map(sum, all_tokens))
    single = share(
        [is_right(p, content_of(r, i)) for p, r in zip(problems, whole, strict=True)
         for i in range(NUM_SAMPLES)]
    )  # fmt: skip
    rows: list[Json] = [
        {"how": "one sample", "n": 1, "accuracy": single, "tokens": full / NUM_SAMPLES / len(whole)}
    ]
    for n in (3, 5, NUM_SAMPLES):
        right = [
            offline(p, r, all_tokens[i], n)
            for i, (p, r) in enumerate(zip(problems, whole, strict=True))
        ]
        spent = sum(sum(tokens[:n]) for tokens in all_tokens) / len(whole)
        rows.append(
            {"how": f"offline majority of {n}", "n": n, "accuracy": share(right), "tokens": spent}
        )
    asked: dict[str, Any] = {
        "votes: 8": NUM_SAMPLES,
        "votes: 8, first_k of 3": {"n": NUM_SAMPLES, "strategy": "first_k", "k": 3},
        "votes: 8, first_k of 2": {"n": NUM_SAMPLES, "strategy": "first_k", "k": 2},
    }
    for name, how in asked.items():
        replies = await client.ask_all(questions, seeded(votes=how))
        right = [is_right(p, content_of(r)) for p, r in zip(problems, replies, strict=True)]
        rows.append(
            {
                "how": name,
                "n": NUM_SAMPLES,
                "accuracy": share(right),
                "tokens": statistics.fmean(r["usage"]["completion_tokens"] for r in replies),
                "counted": statistics.fmean(r["r1"]["votes"]["counted"] for r in replies),
                "agreement": statistics.fmean(r["r1"]["votes"]["share"] for r in replies),
                "seconds_p50": statistics.median(r["seconds"] for r in replies),
            }
        )
    for row in rows:
        row["cost"] = row["tokens"] * len(whole) / full
    return {"experiment": "votes", "problems": len(problems), "rows": rows}


def offline(problem: Problem, reply: Json, num_tokens: Sequence[int], n: int) -> bool:
    """Whether the majority of the first `n` samples, all counted, is right."""
    tally = Tally(Votes(n=n), "boxed")
    for i in range(n):
        tally.add(Ballot(i, extract_boxed(content_of(reply, i)), num_tokens[i]))
    winner = tally.winner
    return winner is not None and winner.answer == problem.answer


# --- recovery -----------------------------------------------------------------------------------


async def recovery(client: Client, settings: Settings) -> Json:
    kinds = ("addition", "word", "equation", "chain")
    each = settings.recovery_problems // len(kinds)
    problems = [p for kind in kinds for p in held_out_problems(kind, each, settings.seed)]
    questions = [problem.question for problem in problems]
    rows, num = [], len(questions)
    # how long answers are is learned from some that end by themselves
    await client.ask_all(questions[: client.concurrency], [{"preset": "math"}] * client.concurrency)
    for limit in map(int, settings.limits.split(",")):
        for recover in (False, True):
            fields = {"preset": "math", "max_tokens": limit, "recover": recover}
            replies = await client.ask_all(questions, [fields | {"seed": i} for i in range(num)])
            contents = list(map(content_of, replies))
            rows.append(
                {
                    "max_tokens": limit,
                    "recover": recover,
                    "answered": share([bool(content) for content in contents]),
                    "boxed": share([extract_boxed(content) is not None for content in contents]),
                    "accuracy": share(list(map(is_right, problems, contents))),
                    "tokens": statistics.fmean(r["usage"]["completion_tokens"] for r in replies),
                }
            )
    return {"experiment": "recovery", "problems": len(problems), "rows": rows}


# --- loops --------------------------------------------------------------------------------------


async def loops(client: Client, settings: Settings) -> Json:
    kinds = ("addition", "word", "equation", "sequence")
    questions = [p.question for kind in kinds for p in held_out_problems(kind, 25, settings.seed)]
    rows = []
    for recover in (False, True):
        fields = {
            "preset": "math",
            "temperature": 0.0,
            "frequency_penalty": -2.0,
            "max_tokens": settings.loop_max_tokens,
            "recover": recover,
        }
        replies = await client.ask_all(questions, [fields] * len(questions))
        rows.append(
            {
                "breaker": recover,
                "unanswered": sum(not content_of(reply) for reply in replies),
                "cut": sum(r["r1"].get("recovered") == "repetition" for r in replies),
                "tokens": statistics.fmean(r["usage"]["completion_tokens"] for r in replies),
            }
        )
    return {"experiment": "loops", "prompts": len(questions), "rows": rows}


# --- all of it ----------------------------------------------------------------------------------

EXPERIMENTS = {"votes": votes, "recovery": recovery, "loops": loops}


async def measure(url: str, settings: Settings) -> list[Json]:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=settings.concurrency, force_close=True)
    results = []
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        client = Client(session, url, settings.concurrency)
        await client.ask("2+2")  # warms it up
        for name in settings.only.split(","):
            results.append(result := await EXPERIMENTS[name](client, settings))
            print("\n" + render(result) + "\n", flush=True)
    return results


def render(result: Json) -> str:
    titles = list(dict.fromkeys(key for row in result["rows"] for key in row))
    cells = [[_cell(row.get(title)) for title in titles] for row in result["rows"]]
    return table([titles, *cells])


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def plot(results: Sequence[Json], folder: Path) -> None:
    """One picture per experiment that has a curve."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        figure, axes = plt.subplots(figsize=(6.4, 4))
        if result["experiment"] == "votes":
            counted = [row for row in result["rows"] if "votes" not in row["how"]]
            axes.plot(
                [row["tokens"] for row in counted],
                [100 * row["accuracy"] for row in counted],
                "o-",
                label="all samples counted (1, 3, 5, 8)",
            )
            for row in result["rows"]:
                if "votes" in row["how"]:
                    axes.plot(row["tokens"], 100 * row["accuracy"], "s", label=row["how"])
            axes.set(xlabel="tokens spent per problem", ylabel="right, %")
        elif result["experiment"] == "recovery":
            for recover, style in ((True, "-"), (False, "--")):
                rows = [row for row in result["rows"] if row["recover"] is recover]
                limits = [row["max_tokens"] for row in rows]
                name = "with recovery" if recover else "without"
                for field, color in (("answered", "C0"), ("accuracy", "C1")):
                    shares = [100 * row[field] for row in rows]
                    label = f"{'answered' if field == 'answered' else 'right'}, {name}"
                    axes.plot(limits, shares, style, color=color, marker="o", label=label)
            axes.set(xlabel="max_tokens", ylabel="%", ylim=(-3, 103))
        else:
            plt.close(figure)
            continue
        axes.grid(alpha=0.3)
        axes.legend()
        figure.tight_layout()
        figure.savefig(folder / f"{result['experiment']}.svg")
        plt.close(figure)


def start(stack: ExitStack, config: str) -> str:
    """An engine and the router over it; the router's URL."""
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="thinking")))
    port = free_port()
    argv = ["up", "--config", config or str(config_dir() / "cpu.toml"), "--port", str(port)]
    child = Child([sys.executable, "-m", "serve", *argv], scratch / "up.log")
    stack.callback(child.stop)
    child.wait_ready(f"http://127.0.0.1:{port}/ready", timeout_s=300)
    return f"http://127.0.0.1:{port}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_for(Settings(), "benchmarks.thinking", __doc__)
    parser.add_argument("--url", help="a running router instead of one of its own")
    arguments = vars(parser.parse_args(argv))
    url = arguments.pop("url")
    settings = Settings(**arguments)
    with ExitStack() as stack:
        results = asyncio.run(measure(url or start(stack, settings.config), settings))
    report = {"benchmark": "thinking", "settings": asdict(settings), "results": results}
    out = Path(settings.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    if settings.plots:
        plot(results, Path(settings.plots))
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
