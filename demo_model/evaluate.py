"""Measure a served demo model on held-out problems, through any OpenAI-compatible server.

    python -m demo_model.evaluate --url http://127.0.0.1:8000 --model demo

Prints one line a suite and writes all figures to a JSON file, from which the model card's table is
filled. Works against vLLM itself (thinking in the content or in `reasoning`) and the router.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path

import aiohttp

from demo_model.scoring import Sample, Score, read_choice, score
from demo_model.suites import Case, Suite, suites

TOP_P = 0.95
TIMEOUT_S = 600.0


class Client:
    """Chat completions with at most `concurrency` requests under way."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, model: str, concurrency: int
    ) -> None:
        base = url.rstrip("/").removesuffix("/v1")
        self._url = f"{base}/v1/chat/completions"
        self._session = session
        self._model = model
        self._gate = asyncio.Semaphore(concurrency)
        self.completion_tokens = 0

    async def samples(self, case: Case, suite: Suite, max_tokens: int) -> list[Sample]:
        """The suite's number of generations for one case. Raises on any HTTP error."""
        body = {
            "model": self._model,
            "messages": list(case.messages),
            "n": suite.samples,
            "temperature": suite.temperature,
            "top_p": TOP_P if suite.temperature < 1 else 1.0,
            "max_tokens": max_tokens,
        }
        async with self._gate, self._session.post(self._url, json=body) as response:
            if response.status != 200:
                raise RuntimeError(f"HTTP {response.status}: {(await response.text())[:300]}")
            reply = await response.json()
        self.completion_tokens += reply["usage"]["completion_tokens"]
        return [read_choice(choice) for choice in reply["choices"]]


async def run_suite(client: Client, suite: Suite, max_tokens: int) -> tuple[Score, list[str]]:
    """The suite's score, and a few wrong replies as text."""
    replies = await asyncio.gather(
        *(client.samples(case, suite, max_tokens) for case in suite.cases)
    )
    problems = [case.problem for case in suite.cases]
    wrong = [
        f"{p.question}\n{s.thinking}\n=> {s.content}   [wanted {p.answer or p.key[0]}]"
        for p, samples in zip(problems, replies, strict=True)
        for s in samples[:1]
        if score([p], [[s]]).accuracy < 1
    ]
    return score(problems, replies), wrong


def table_row(name: str, result: Score) -> str:
    vote = "" if result.majority is None else f"{100 * result.majority:5.1f}"
    scatter = "" if result.scatter is None else f"{result.scatter:4.2f}"
    return (
        f"| {name:44} | {result.problems:4} | {100 * result.accuracy:5.1f} | {vote:5} "
        f"| {100 * result.closed:5.1f} | {100 * result.well_formed:5.1f} | {scatter:4} |"
    )


HEADER = (
    f"| {'suite':44} |    n | right | of 8  | closed | formed | scatter |\n"
    f"|{'-' * 46}|-----:|------:|------:|-------:|-------:|--------:|"
)


async def evaluate(args: argparse.Namespace) -> None:
    results: dict[str, object] = {}
    started = time.monotonic()
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    # A fresh connection each: servers close idle ones after seconds, in the middle of a suite.
    connector = aiohttp.TCPConnector(limit=args.concurrency, force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        client = Client(session, args.url, args.model, args.concurrency)
        print(HEADER, flush=True)
        for suite in suites(args.n, args.temperature, args.seed):
            if args.only and not any(part in suite.name for part in args.only):
                continue
            result, wrong = await run_suite(client, suite, args.max_tokens)
            results[suite.name] = result.as_json() | {"temperature": suite.temperature}
            print(table_row(suite.name, result), flush=True)
            for text in wrong[: args.show_wrong]:
                print(f"--- wrong ---\n{text}", flush=True)
        seconds = time.monotonic() - started
        report = {
            "temperature": args.temperature,
            "top_p": TOP_P,
            "seed": args.seed,
            "completion_tokens": client.completion_tokens,
            "seconds": round(seconds, 1),
            "suites": results,
        }
    args.json.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", "utf-8")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--url", required=True, help="server, with or without /v1")
    add("--model", default="demo", help="served model name")
    add("--n", type=int, default=200, help="problems a suite")
    add("--temperature", type=float, default=0.6)
    add("--max-tokens", type=int, default=800)
    add("--concurrency", type=int, default=32)
    add("--seed", type=int, default=1)
    add("--only", nargs="*", help="only suites whose name contains one of these")
    add("--show-wrong", type=int, default=0, help="wrong replies to print per suite")
    add("--json", type=Path, default=Path("demo_model/results.json"))
    return parser.parse_args()


def main() -> None:
    asyncio.run(evaluate(parse_args()))


if __name__ == "__main__":
    main()
