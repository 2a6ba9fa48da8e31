"""`r1-serve doctor`: checks this machine and set-up, and says how to mend what it finds.

Nothing is started or changed. `serve.doctor.facts` looks at the machine, the checks
(`serve.doctor.machine`, `serve.doctor.memory`, `serve.doctor.setup`) judge what it saw.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from serve.commands import ConfigOption

if TYPE_CHECKING:
    from serve.doctor.facts import Facts
    from serve.doctor.findings import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


def doctor(
    config: ConfigOption = None,
    engine_url: Annotated[
        list[str] | None,
        typer.Option("--engine-url", help="Check a router over this engine; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check this machine and set-up; each finding comes with its remedy. Status 1: a problem.

    Starts and changes nothing. Without --config and --engine-url: what `up` would start.
    """
    from serve.doctor.facts import look

    findings = examine(look(config, engine_url or []))
    numbers = Counter(finding.status for finding in findings)
    if as_json:
        report = {
            "problems": numbers["problem"],
            "warnings": numbers["warning"],
            "findings": findings,
        }
        typer.echo(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        for finding in findings:
            _show(finding)
        typer.echo(_conclusion(numbers["problem"], numbers["warning"]))
    raise typer.Exit(1 if numbers["problem"] else 0)


def examine(facts: Facts) -> list[Finding]:
    """What all checks find, in their order. Pure."""
    from serve.doctor import machine, memory, setup

    checks = (*machine.CHECKS, *memory.CHECKS, *setup.CHECKS)
    return [finding for check in checks for finding in check(facts)]


def _show(finding: Finding) -> None:
    status = typer.style(f"{finding.status:8}", fg=_COLOURS[finding.status])
    typer.echo(f"{status} {finding.check:10} {finding.summary}")
    if finding.remedy is not None:
        typer.echo(f"{'':19} → {finding.remedy}")


def _conclusion(num_problems: int, num_warnings: int) -> str:
    if not num_problems + num_warnings:
        return "All is well."
    return f"{_count(num_problems, 'problem')}, {_count(num_warnings, 'warning')}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
