"""Train the demo model from scratch on a CPU, and export it.

    python -m demo_model.train --out demo_model/weights

Trains the tokenizer, then the model: completions only are learned, rows are packed, the schedule
is warm-up, stable, decay and goes by tokens. The data stream is a function of (seed, step), so a
resumed run sees the batches that an unbroken one would. To cut a run short, stop it and go on with
`--resume CHECKPOINT --decay-now --decay-tokens N`.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from demo_model.model import Qwen2, Shape, export, rotary
from demo_model.packing import PLAN, Batch, make_batches
from demo_model.prompts import BOS, EOS
from demo_model.tokenizer import VOCAB_SIZE, load_tokenizer, save_tokenizer, train_tokenizer

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rate's share of its peak: warm-up, stable, linear decay, by tokens."""

    warmup: int
    decay_from: int
    total: int

    def scale(self, tokens: int) -> float:
        if tokens < self.warmup:
            return (tokens + 1) / self.warmup
        if tokens < self.decay_from:
            return 1.0
        return max(0.01, (self.total - tokens) / max(1, self.total - self.decay_from))


def make_optimizers(
    model: Qwen2, muon_lr: float, adam_lr: float
) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the layers' matrices; AdamW for embeddings, norms and biases."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.dim() == 2 and "layers" in name else others).append(parameter)
    return (
        torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    )


@dataclass(slots=True)
class Trainer:
    """The model, its optimisers, and how far they have come."""

    model: Qwen2
    optimizers: tuple[torch.optim.Optimizer, ...]
    loss_of: Callable[..., Tensor]
    step: int = 0
    tokens: int = 0
    peak_lrs: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.peak_lrs = tuple(o.param_groups[0]["lr"] for o in self.optimizers)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.tokens = state["step"], state["tokens"]

    def save(self, path: Path) -> None:
        """Write a whole checkpoint or none."""
        part = path.with_suffix(".part")
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "tokens": self.tokens,
        }
        torch.save(state, part)
        os.replace(part, path)

    def update(self, batches: list[Batch], scale: float) -> float:
        """One optimiser step over all batches; the mean loss of a target token."""
        num_targets = sum(batch.num_targets for batch in batches)
        total = 0.0
        for batch in batches:
            cos, sin = rotary(batch.positions, self.model.shape)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = self.loss_of(batch.ids, batch.targets, cos, sin, batch.mask())
            torch.autograd.backward(loss / num_targets)
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, peak in zip(self.optimizers, self.peak_lrs, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += sum(batch.num_tokens for batch in batches)
        return total / num_targets


@dataclass(slots=True)
class Progress:
    """The log: one JSON line now and then, with the throughput since the start of this run."""

    every: int
    first_tokens: int
    started: float = field(default_factory=time.monotonic)
    losses: list[float] = field(default_factory=list)

    def add(self, trainer: Trainer, loss: float, scale: float) -> None:
        self.losses.append(loss)
        if trainer.step % self.every:
            return
        seconds = time.monotonic() - self.started
        line = {
            "step": trainer.step,
            "tokens": trainer.tokens,
            "loss": round(sum(self.losses) / len(self.losses), 4),
            "lr": round(scale, 3),
            "tokens_per_s": round((trainer.tokens - self.first_tokens) / seconds),
            "seconds": round(seconds),
        }
        print(json.dumps(line), flush=True)
        self.losses.clear()


def tokenizer_of(run: Path, seed: int) -> Tokenizer:
    """The run's tokenizer, trained if it is not there yet. Raises ValueError on another size."""
    run.mkdir(parents=True, exist_ok=True)
    if not (run / "tokenizer.json").exists():
        save_tokenizer(train_tokenizer(seed), run)
    tokenizer = load_tokenizer(run)
    if (size := tokenizer.get_vocab_size()) != VOCAB_SIZE:
        raise ValueError(f"{run}/tokenizer.json has {size} entries, not {VOCAB_SIZE}")
    return tokenizer


def train(args: argparse.Namespace) -> None:
    """Train to the schedule's end, saving now and then, and export."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    tokenizer = tokenizer_of(args.run, args.seed)
    model = Qwen2(Shape(layers=args.layers))
    loss_of = torch.compile(model.loss, dynamic=False) if args.compile else model.loss
    optimizers = make_optimizers(model, args.muon_lr, args.adam_lr)
    trainer = Trainer(model, optimizers, loss_of)
    schedule = Schedule(args.warmup, int(args.tokens * (1 - args.decay_share)), args.tokens)
    if args.resume:
        trainer.load(args.resume)
    if args.resume and args.decay_now:
        end = trainer.tokens + args.decay_tokens
        schedule = Schedule(args.warmup, trainer.tokens, end)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {schedule}", flush=True)
    progress, saved_at = Progress(args.log_every, trainer.tokens), time.monotonic()
    while trainer.tokens < schedule.total:
        scale = schedule.scale(trainer.tokens)
        rng = Random(f"train:{args.seed}:{trainer.step}")
        loss = trainer.update(make_batches(tokenizer, rng, PLAN, args.shares), scale)
        progress.add(trainer, loss, scale)
        if time.monotonic() - saved_at > args.save_every_s:
            saved_at = time.monotonic()
            trainer.save(args.run / CHECKPOINT)
    trainer.save(args.run / CHECKPOINT)
    export_run(args.run, args.out, model)


def export_run(run: Path, out: Path, model: Qwen2) -> None:
    """Write a run's newest checkpoint and its tokenizer as a model folder."""
    tokenizer = load_tokenizer(run)
    model.load_state_dict(torch.load(run / CHECKPOINT, weights_only=True)["model"])
    vocabulary = tokenizer.get_vocab()
    export(model, out, vocabulary[BOS], vocabulary[EOS])
    save_tokenizer(tokenizer, out)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("demo_model/weights"), help="folder for the model")
    add("--run", type=Path, default=Path("build/demo_model"), help="checkpoints, tokenizer")
    add("--tokens", type=int, default=27_000_000, help="training tokens in all")
    add("--decay-share", type=float, default=0.6, help="share of the tokens that decay takes")
    add("--warmup", type=int, default=1_000_000, help="warm-up tokens")
    add("--resume", type=Path, help="go on from this checkpoint")
    add("--decay-now", action="store_true", help="with --resume: start the decay at once")
    add("--decay-tokens", type=int, default=12_000_000, help="length of that decay")
    add("--shares", type=json.loads, help='kinds with other shares, as JSON: {"word": 0.4}')
    add("--export-only", action="store_true", help="write the run's newest checkpoint, and stop")
    add("--layers", type=int, default=5)
    add("--muon-lr", type=float, default=6e-3)
    add("--adam-lr", type=float, default=3e-3)
    add("--threads", type=int, default=os.cpu_count())
    add("--seed", type=int, default=1)
    add("--save-every-s", type=float, default=300.0)
    add("--log-every", type=int, default=20)
    add("--no-compile", dest="compile", action="store_false")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.export_only:
        export_run(args.run, args.out, Qwen2(Shape(layers=args.layers)))
    else:
        train(args)


if __name__ == "__main__":
    main()
