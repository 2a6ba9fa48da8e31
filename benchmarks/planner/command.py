"""`r1-serve plan`: how many replicas of a card carry so many users."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from benchmarks.planner.calibration import CalibrationError, read_calibration
from benchmarks.planner.capacity import limits_of
from benchmarks.planner.demand import Demand
from benchmarks.planner.hardware import GPUS, find_gpu
from benchmarks.planner.limit import Card
from benchmarks.planner.model_shape import (
    R1_DISTILL_QWEN_1_5B,
    KvDtype,
    ModelShape,
    ShapeError,
    read_shape,
)
from benchmarks.planner.plan import Plan, plan, render
from benchmarks.planner.sequence import Limits
from benchmarks.planner.simulate import EngineModel
from benchmarks.planner.step_times import roofline
from benchmarks.slo import Slo
from serve.commands import clear_errors
from serve.settings import SettingsError


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, before it means anything."""

    gpu: str = "L4"
    users: int | None = None
    rate: float | None = None
    pause: float = 30.0
    prompt: int = 300
    think: int = 2000
    answer: int = 300
    slo_ttft_ms: float = 2000.0
    slo_tpot_ms: float = 80.0
    slo_ttfa_ms: float | None = None
    slo_e2e_s: float | None = None
    share: float = 0.95
    kv_dtype: str = "auto"
    max_num_seqs: int | None = None
    context: int | None = None
    model: Path | None = None
    step_times: Path | None = None


_DEFAULT = Options()
_USUAL_CONTEXT = 32768
"""As in configs/gpu.toml: with less the thinking is cut and the answer lost."""
_LEAST = {
    "users": 1,
    "rate": 0,
    "pause": 0,
    "prompt": 1,
    "think": 0,
    "answer": 0,
    "max_num_seqs": 1,
    "context": 16,
    "slo_ttft_ms": 0,
    "slo_tpot_ms": 0,
    "slo_ttfa_ms": 0,
    "slo_e2e_s": 0,
}


def plan_command(
    gpu: Annotated[
        str, typer.Option("--gpu", help=f"The card: {', '.join(gpu.name for gpu in GPUS)}.")
    ] = _DEFAULT.gpu,
    users: Annotated[
        int | None,
        typer.Option("--users", help="People who each send, read the reply, pause, send again."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", help="Requests per second, instead of users; arrivals are Poisson."),
    ] = None,
    pause: Annotated[
        float, typer.Option("--pause", help="Seconds between a user's reply and next request.")
    ] = _DEFAULT.pause,
    prompt: Annotated[
        int,
        typer.Option("--prompt", help="Mean prompt, in tokens, that is not in the prefix cache."),
    ] = _DEFAULT.prompt,
    think: Annotated[
        int, typer.Option("--think", help="Mean thinking, in tokens.")
    ] = _DEFAULT.think,
    answer: Annotated[
        int, typer.Option("--answer", help="Mean answer, in tokens.")
    ] = _DEFAULT.answer,
    slo_ttft_ms: Annotated[
        float, typer.Option("--slo-ttft-ms", help="Limit on the time to the first token.")
    ] = _DEFAULT.slo_ttft_ms,
    slo_tpot_ms: Annotated[
        float, typer.Option("--slo-tpot-ms", help="Limit on the time per token after the first.")
    ] = _DEFAULT.slo_tpot_ms,
    slo_ttfa_ms: Annotated[
        float | None,
        typer.Option("--slo-ttfa-ms", help="Limit on the time to the first token of the answer."),
    ] = None,
    slo_e2e_s: Annotated[
        float | None, typer.Option("--slo-e2e-s", help="Limit on the whole reply's time.")
    ] = None,
    share: Annotated[
        float, typer.Option("--share", help="Of the requests, those that keep to all limits.")
    ] = _DEFAULT.share,
    kv_dtype: Annotated[
        str, typer.Option("--kv-dtype", help="The KV cache: auto (16 bit) or fp8.")
    ] = _DEFAULT.kv_dtype,
    max_num_seqs: Annotated[
        int | None,
        typer.Option("--max-num-seqs", help="Sequences at once on one replica; vLLM's default."),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            help="The longest prompt and reply together, in tokens; the model's, at most 32768.",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="A model's directory; without it the 1.5B R1 distill."),
    ] = None,
    step_times: Annotated[
        Path | None,
        typer.Option("--step-times", help="A calibration's file, instead of the data sheet."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """How many replicas carry a load within latency limits, by simulation (docs/capacity.md)."""
    options = Options(
        gpu,
        users,
        rate,
        pause,
        prompt,
        think,
        answer,
        slo_ttft_ms,
        slo_tpot_ms,
        slo_ttfa_ms,
        slo_e2e_s,
        share,
        kv_dtype,
        max_num_seqs,
        context,
        model,
        step_times,
    )
    with clear_errors():
        made, card, demand = planned(options)
    typer.echo(msgspec.json.encode(made).decode() if as_json else render(made, card, demand))


def planned(options: Options) -> tuple[Plan, Card, Demand]:
    """Raises `SettingsError`."""
    _check(options)
    card = _card(options)
    model = _engine(options, card)
    demand = _demand(options, _context(options, card, model.limits))
    return plan(model, card, demand, _slo(options)), card, demand


def _check(options: Options) -> None:
    if (options.users is None) == (options.rate is None):
        raise SettingsError("give either --users (people) or --rate (requests per second)")
    for field, least in _LEAST.items():
        value = getattr(options, field)
        must_exceed = least == 0 and field not in ("pause", "think", "answer")
        if value is not None and (value <= least if must_exceed else value < least):
            bound = "more than 0" if must_exceed else f"{least} or more"
            raise SettingsError(f"{_flag(field)} must be {bound}, got {value:g}")
    if not 0 < options.share <= 1:
        raise SettingsError(f"--share must be more than 0 and at most 1, got {options.share:g}")
    if options.think + options.answer < 1:
        raise SettingsError("--think and --answer are both 0; a reply has one token at least")


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _card(options: Options) -> Card:
    gpu = find_gpu(options.gpu)
    if gpu is None:
        known = ", ".join(gpu.name for gpu in GPUS)
        raise SettingsError(f"--gpu {options.gpu!r} is not known; there are: {known}")
    if options.kv_dtype not in ("auto", "fp8"):
        raise SettingsError(f"--kv-dtype must be auto or fp8, got {options.kv_dtype!r}")
    kv_dtype: KvDtype = "fp8" if options.kv_dtype == "fp8" else "auto"
    return Card(gpu, _shape(options), kv_dtype, is_measured=options.step_times is not None)


def _shape(options: Options) -> ModelShape:
    if options.model is None:
        return R1_DISTILL_QWEN_1_5B
    try:
        return read_shape(options.model)
    except ShapeError as error:
        raise SettingsError(f"--model: {error}") from error


def _engine(options: Options, card: Card) -> EngineModel:
    if options.step_times is not None:
        return _calibrated(options.step_times, options.max_num_seqs)
    limits = limits_of(card.gpu, card.shape, card.kv_dtype, options.max_num_seqs)
    if not limits.kv_tokens:
        raise SettingsError(
            f"--gpu {card.gpu.name}: the weights of {card.shape.name} and what a step needs with "
            f"--max-num-seqs {limits.max_num_seqs} leave no memory for KV; take a larger card or "
            f"fewer sequences"
        )
    times = roofline(card.gpu, card.shape, card.kv_dtype, options.prompt)
    return EngineModel(times, limits)


def _calibrated(path: Path, max_num_seqs: int | None) -> EngineModel:
    try:
        model = read_calibration(path).model
    except CalibrationError as error:
        raise SettingsError(f"--step-times: {error}") from error
    if max_num_seqs is None:
        return model
    batched = max(max_num_seqs, model.limits.max_num_batched_tokens)
    limits = replace(model.limits, max_num_seqs=max_num_seqs, max_num_batched_tokens=batched)
    return replace(model, limits=limits)


def _context(options: Options, card: Card, limits: Limits) -> int:
    longest, room = card.shape.max_context, limits.kv_tokens // limits.block_tokens
    room *= limits.block_tokens
    context = options.context or min(_USUAL_CONTEXT, longest)
    if context > longest:
        raise SettingsError(f"--context {context} is more than the model's {longest} tokens")
    if context > room:
        raise SettingsError(
            f"the KV of a --context of {context} doesn't fit: there is room for {room} tokens; "
            f"take a smaller --context, --kv-dtype fp8 or a larger card"
        )
    if options.prompt >= context:
        raise SettingsError(f"--prompt {options.prompt} must be less than --context {context}")
    return context


def _demand(options: Options, context: int) -> Demand:
    return Demand(
        users=options.users,
        rate=options.rate,
        pause_s=options.pause,
        prompt_tokens=options.prompt,
        think_tokens=options.think,
        answer_tokens=options.answer,
        context=context,
    )


def _slo(options: Options) -> Slo:
    e2e_s = options.slo_e2e_s
    return Slo(
        options.slo_ttft_ms,
        options.slo_tpot_ms,
        options.slo_ttfa_ms,
        None if e2e_s is None else 1000 * e2e_s,
        options.share,
    )
