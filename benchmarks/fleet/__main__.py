"""Fleets of up to 1,000 engines, simulated, behind the router's own policies: balancing, a burst
with and without brownout, autoscaling over a day, replicas that die.

Prints a table for each and one JSON line; `--out` keeps all figures with their series over time,
each as soon as it is known, and `--plots` makes pictures of what is kept there. Deterministic but
for the costs of a choice, which are this machine's.

    python -m benchmarks.fleet [--quick] [--only balancing,faults] [--plots docs/images]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.fleet.choice_costs import choice_costs
from benchmarks.fleet.experiments import EXPERIMENTS, QUICK, Scale, run_all
from benchmarks.fleet.figures import NUM_DIGITS, Run, as_json, as_table
from benchmarks.fleet.plots import draw
from benchmarks.stats import without_nan


@dataclass(slots=True)
class Kept:
    """What a file has: each experiment's runs, from this call of the program or an earlier one."""

    path: Path
    quick: bool
    experiments: dict[str, dict[str, object]] = field(default_factory=dict)
    choice_us: object = None

    @classmethod
    def read(cls, path: Path, quick: bool) -> Kept:
        """Nothing of another scale."""
        data = json.loads(path.read_text()) if path.exists() else {}
        if data.get("quick") != quick:
            return cls(path, quick)
        return cls(path, quick, data["experiments"], data["choice_us"])

    def write(self) -> None:
        data = {
            "quick": self.quick,
            "experiments": self.experiments,
            "choice_us": self.choice_us,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(data))

    def runs(self, experiment: str) -> dict[str, Run]:
        return {
            name: Run(values)  # type: ignore[arg-type]
            for name, values in self.experiments[experiment].items()
        }

    def line(self) -> str:
        """All but the series."""
        figures = {
            name: {run: it.without_series() for run, it in self.runs(name).items()}
            for name in self.experiments
        }
        kept = {"experiments": figures, "choice_us": self.choice_us}
        return json.dumps(without_nan(kept, NUM_DIGITS))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.fleet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="at most 64 replicas")
    parser.add_argument("--only", default=",".join(EXPERIMENTS), help="experiments, by comma")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once")
    parser.add_argument("--out", type=Path, default=Path("bench-results/fleet.json"))
    parser.add_argument("--plots", type=Path, help="a directory for PNGs of all that --out has")
    args = parser.parse_args(argv)
    names = [name for name in args.only.split(",") if name]
    if unknown := [name for name in names if name not in EXPERIMENTS]:
        parser.error(f"there is no {unknown[0]}, only {', '.join(EXPERIMENTS)}")
    scale = QUICK if args.quick else Scale()
    kept = Kept.read(args.out, args.quick)
    kept.choice_us = without_nan(choice_costs(scale.sizes), NUM_DIGITS)
    for name in names:
        worlds = EXPERIMENTS[name](scale)
        runs: dict[str, object] = dict.fromkeys(worlds)
        for run, outcome, wall_s in run_all(worlds, args.jobs):
            print(f"{run}: {wall_s:.0f} s", file=sys.stderr)
            runs[run] = as_json(outcome, wall_s)
            kept.experiments[name] = {run: it for run, it in runs.items() if it}
            kept.write()
        print(f"\n{name}\n{as_table(kept.runs(name))}")
    if args.plots is not None:
        draw({name: kept.runs(name) for name in kept.experiments}, args.plots)
    print(kept.line())


if __name__ == "__main__":
    main()
