"""What Ray costs, and what a second engine gives: `r1-serve up` over stand-ins for vLLM.

Each contender is started anew in each round and runs alone, so that what Ray does in the background
weighs on it alone; figures are medians over rounds of ratios within a round.

- `local`: engines as child processes; `ray`: as actors, on a Ray that `up` starts.
- `ray serve`: the least that Ray Serve can do (`benchmarks.ray_serve_app`): no router, no engine;
  its replicas sleep and yield ready-made events, which reach the client through Serve's proxy.
- throughput: tokens a second where twice as many clients want something as two engines have slots.
- TTFT: time to the first event with text, where every request has a slot at once.
- CPU µs per token: user + system time of all processes but the engines, under the same light load.

    python -m benchmarks.ray_bench
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from benchmarks.load import Load, run_apart
from benchmarks.options import parser_for
from benchmarks.peers import ROOT, Contender, install
from benchmarks.processes import Child, free_port
from benchmarks.stats import median_of, paired_ratio, table

MODEL = "stand-in"
RAY_SERVE = Contender("ray-serve", "-", "ray[serve]==2.60.0")
CONTENDERS = ("local 1", "local 2", "ray 1", "ray 2", "ray serve 2")


@dataclass(frozen=True, slots=True)
class Settings:
    rounds: int = 3
    contenders: str = ",".join(CONTENDERS)
    num_slots: int = 16
    step_ms: float = 20.0
    num_tokens: int = 64
    measure_s: float = 6.0
    out: str = "bench-results/ray.json"

    @property
    def stream_s(self) -> float:
        return self.num_tokens * self.step_ms / 1000


@dataclass(frozen=True, slots=True)
class Sample:
    tokens_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_p99_ms: float
    cpu_us_per_token: float
    num_errors: float


def argv_of(
    name: str, settings: Settings, port: int, scratch: Path
) -> tuple[list[str], dict[str, str]]:
    """The contender's command and what to add to its environment."""
    kind, _, num = name.rpartition(" ")
    if kind == "ray serve":
        values = (port, num, settings.num_slots, settings.step_ms, settings.num_tokens)
        program = str(ROOT / "benchmarks" / "ray_serve_app.py")
        return [str(install(RAY_SERVE)), program, *map(str, values)], {}
    config = scratch / "up.toml"
    (scratch / "config.json").touch()
    config.write_text(
        f'[engine]\nmodel = "{scratch}"\nserved_name = "{MODEL}"\nport = 0\nlog_dir = "logs"\n'
        f'backend = "{kind}"\nnum_replicas = {num}\n[ray]\nnum_cpus_per_replica = 0.5\n'
    )
    half = settings.num_tokens // 2
    options = f"--step-ms {settings.step_ms} --max-num-seqs {settings.num_slots} --prefill-ms 5 "
    env = {
        "PYTHONPATH": str(ROOT / "tests" / "fake_vllm"),
        "FAKE_VLLM_OPTIONS": options + f"--think-tokens {half} --answer-tokens {half}",
    }
    argv = [sys.executable, "-m", "serve", "up", "--config", str(config), "--port", str(port)]
    return argv, env


@contextlib.contextmanager
def running(name: str, settings: Settings) -> Iterator[tuple[str, Child]]:
    """The contender's URL and process."""
    with tempfile.TemporaryDirectory(prefix="ray-bench") as scratch:
        port = free_port()
        argv, env = argv_of(name, settings, port, Path(scratch))
        child = Child(argv, Path(scratch) / "log", env)
        try:
            url = f"http://127.0.0.1:{port}"
            child.wait_ready(url + "/ready", 90)
            yield url, child
        finally:
            child.stop(grace_s=30)


def cpu_s_without_engines(child: Child) -> float:
    total_s = 0.0
    for process in child.tree():
        with contextlib.suppress(psutil.NoSuchProcess):
            if not any("vllm.entrypoints" in part for part in process.cmdline()):
                times = process.cpu_times()
                total_s += times.user + times.system
    return total_s


def sample(name: str, settings: Settings) -> Sample:
    with running(name, settings) as (url, child):
        light = Load(
            url,
            MODEL,
            settings.num_slots // 2,
            ramp_s=settings.stream_s,
            warm_up_s=settings.stream_s + 1,
            measure_s=settings.measure_s,
        )
        few, begin_s, end_s = run_apart(light, lambda: cpu_s_without_engines(child))
        many, _, _ = run_apart(replace(light, streams=4 * settings.num_slots), lambda: None)
    return Sample(
        tokens_per_s=many["num_events"] / many["wall_s"],
        ttft_p50_ms=few["ttft_p50_ms"],
        ttft_p99_ms=few["ttft_p99_ms"],
        itl_p99_ms=few["itl_p99_ms"],
        cpu_us_per_token=1e6 * (end_s - begin_s) / few["num_events"],
        num_errors=few["num_errors"] + many["num_errors"],
    )


def render(samples: dict[str, list[Sample]]) -> str:
    """Medians, and ratios to the contender named in brackets in the same round."""
    columns = list(Sample.__dataclass_fields__)
    rows = [["", *columns, "throughput (local 1)", "TTFT (local, as many)"]]
    for name, taken in samples.items():
        medians = [f"{median_of([getattr(it, field) for it in taken]):.1f}" for field in columns]
        same = "local " + name.rpartition(" ")[2]
        ratios = (
            _ratio("tokens_per_s", taken, samples.get("local 1")),
            _ratio("ttft_p50_ms", taken, samples.get(same)),
        )
        rows.append([name, *medians, *ratios])
    return table(rows)


def _ratio(field: str, taken: list[Sample], base: list[Sample] | None) -> str:
    if base is None:
        return "-"
    values, bases = ([getattr(it, field) for it in several] for several in (taken, base))
    return f"{paired_ratio(values, bases):.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_for(Settings(), "benchmarks.ray_bench", __doc__)
    settings = Settings(**vars(parser.parse_args(argv)))
    samples: dict[str, list[Sample]] = {name: [] for name in settings.contenders.split(",")}
    for number in range(settings.rounds):
        for name, taken in samples.items():
            taken.append(sample(name, settings))
            print(f"round {number + 1}, {name}: {taken[-1]}", flush=True)
    print(render(samples))
    out = Path(settings.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        json.dumps({name: [asdict(it) for it in all_] for name, all_ in samples.items()})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
