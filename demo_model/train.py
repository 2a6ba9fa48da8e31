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
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from demo_model.model import Qwen2, Shape, export, rotary
from demo_model.prompts import BOS, EOS, training_example
from demo_model.tokenizer import VOCAB_SIZE, load_tokenizer, save_tokenizer, train_tokenizer

IGNORED = -100
MEAN_EXAMPLE_TOKENS = 153
Plan = tuple[tuple[int, int], ...]
# (rows, tokens a row): short rows make attention cheaper, a few long ones teach long chats.
PLAN: Plan = ((44, 256), (8, 512), (1, 1024))


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows. ids, targets, positions, documents: [rows, length]; padding is document -1."""

    ids: Tensor
    targets: Tensor
    positions: Tensor
    documents: Tensor

    @property
    def num_tokens(self) -> int:
        return int((self.documents >= 0).sum())

    @property
    def num_targets(self) -> int:
        return int((self.targets >= 0).sum())

    def mask(self) -> Tensor:
        """[rows, 1, length, length]: causal, and within one document."""
        same = self.documents[:, None, :, None] == self.documents[:, None, None, :]
        return same & torch.ones(same.shape[-2:], dtype=torch.bool).tril()


def encoded_examples(
    tokenizer: Tokenizer, rng: Random, count: int, shares: dict[str, float] | None
) -> list[tuple[list[int], int]]:
    """`count` examples as (ids with the end token, number of prompt ids)."""
    eos = tokenizer.token_to_id(EOS)
    pairs = [training_example(rng, shares) for _ in range(count)]
    prompts = tokenizer.encode_batch([p for p, _ in pairs], add_special_tokens=False)
    completions = tokenizer.encode_batch([c for _, c in pairs], add_special_tokens=False)
    return [
        (prompt.ids + completion.ids + [eos], len(prompt.ids))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def pack(sizes: list[int], room: list[int], order: list[int]) -> list[int | None]:
    """First fit: the row of each example, taken in `order`, or None. `room` shrinks in place."""
    rows: list[int | None] = [None] * len(sizes)
    for example in order:
        rows[example] = next((r for r, left in enumerate(room) if left >= sizes[example]), None)
        if (row := rows[example]) is not None:
            room[row] -= sizes[example]
    return rows


def make_batches(
    tokenizer: Tokenizer, rng: Random, plan: Plan, shares: dict[str, float] | None = None
) -> list[Batch]:
    """Fill rows of the planned lengths with examples; those longer than any row are left out.

    Most of the room goes to a first lot, longest first; what is left is filled up at random.
    """
    lengths = [length for rows, length in plan for _ in range(rows)]
    room, rows, examples = lengths.copy(), [], []
    for share in (0.9, 0.1, 0.1):
        count = int(share * sum(lengths) / MEAN_EXAMPLE_TOKENS)
        lot = encoded_examples(tokenizer, rng, count, shares)
        sizes = [len(ids) - 1 for ids, _ in lot]
        order = sorted(range(count), key=lambda i: -sizes[i]) if share > 0.5 else range(count)
        rows += pack(sizes, room, list(order))
        examples += lot
    batches, first = [], 0
    for num_rows, length in plan:
        inside = range(first, first + num_rows)
        first += num_rows
        placed = [[e for e, at in zip(examples, rows, strict=True) if at == row] for row in inside]
        batches.append(fill_rows(placed, length))
    return batches


def fill_rows(placed: list[list[tuple[list[int], int]]], length: int) -> Batch:
    """Lay each row's examples end to end."""
    shape = (len(placed), length)
    ids, targets = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
    positions, documents = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    for row, examples in enumerate(placed):
        start = 0
        for document, (example, num_prompt) in enumerate(examples):
            at = slice(start, start + len(example) - 1)
            ids[row, at] = torch.tensor(example[:-1])
            targets[row, at] = torch.tensor([IGNORED] * (num_prompt - 1) + example[num_prompt:])
            positions[row, at] = torch.arange(len(example) - 1)
            documents[row, at] = document
            start = at.stop
    return Batch(ids, targets, positions, documents)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Warm-up, stable, linear decay to nearly nothing, by tokens."""

    warmup: int
    decay_from: int
    total: int

    def scale(self, tokens: int) -> float:
        if tokens < self.warmup:
            return (tokens + 1) / self.warmup
        if tokens < self.decay_from:
            return 1.0
        return max(0.01, (self.total - tokens) / max(1, self.total - self.decay_from))


def make_optimizers(model: Qwen2, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices; AdamW for embeddings, norms and biases."""
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "layers" in n]
    others = [p for n, p in model.named_parameters() if p.dim() < 2 or "layers" not in n]
    return [
        torch.optim.Muon(
            matrices, lr=args.muon_lr, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def save_checkpoint(path: Path, state: dict[str, object]) -> None:
    """Write a whole checkpoint or none."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    args.run.mkdir(parents=True, exist_ok=True)
    if not (args.run / "tokenizer.json").exists():
        save_tokenizer(train_tokenizer(args.seed), args.run)
    tokenizer = load_tokenizer(args.run)
    assert_size = tokenizer.get_vocab_size()
    if assert_size != VOCAB_SIZE:
        raise ValueError(f"the tokenizer has {assert_size} entries, not {VOCAB_SIZE}")
    shape = Shape(layers=args.layers)
    model = Qwen2(shape)
    optimizers = make_optimizers(model, args)
    step, tokens = 0, 0
    schedule = Schedule(args.warmup, int(args.tokens * (1 - args.decay_share)), args.tokens)
    if args.resume:
        state = torch.load(args.resume, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, tokens = state["step"], state["tokens"]
        if args.decay_now:
            schedule = Schedule(args.warmup, tokens, tokens + args.decay_tokens)
    loss_of = torch.compile(model.loss, dynamic=False) if args.compile else model.loss
    num_parameters = sum(p.numel() for p in model.parameters())
    print(f"{num_parameters} parameters; {schedule}; step {step}", flush=True)

    rates = [(args.muon_lr), (args.adam_lr)]
    started = saved_at = time.monotonic()
    first_tokens, window = tokens, []
    while tokens < schedule.total:
        scale = schedule.scale(tokens)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
        rng = Random(f"train:{args.seed}:{step}")
        batches = make_batches(tokenizer, rng, PLAN, args.shares)
        num_targets = sum(batch.num_targets for batch in batches)
        total_loss = 0.0
        for batch in batches:
            cos, sin = rotary(batch.positions, shape)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(batch.ids, batch.targets, cos, sin, batch.mask())
            (loss / num_targets).backward()
            total_loss += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        tokens += sum(batch.num_tokens for batch in batches)
        window.append(total_loss / num_targets)
        now = time.monotonic()
        if step % args.log_every == 0:
            rate = (tokens - first_tokens) / (now - started)
            mean = sum(window) / len(window)
            line = {"step": step, "tokens": tokens, "loss": round(mean, 4), "lr": round(scale, 3),
                    "tokens_per_s": round(rate), "seconds": round(now - started)}  # fmt: skip
            print(json.dumps(line), flush=True)
            window.clear()
        if now - saved_at > args.save_every_s or tokens >= schedule.total:
            saved_at = now
            save_checkpoint(
                args.run / "checkpoint.pt",
                {
                    "model": model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "step": step,
                    "tokens": tokens,
                },
            )
    export_run(args.run, args.out, shape)


def export_run(run: Path, out: Path, shape: Shape) -> None:
    """Write a run's newest checkpoint and its tokenizer as a model folder."""
    tokenizer = load_tokenizer(run)
    model = Qwen2(shape)
    model.load_state_dict(torch.load(run / "checkpoint.pt", weights_only=True)["model"])
    export(model, out, tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS))
    save_tokenizer(tokenizer, out)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("demo_model/weights"), help="folder for the model")
    add("--run", type=Path, default=Path("/tmp/demo_model_run"), help="checkpoints, tokenizer")
    add("--tokens", type=int, default=45_000_000, help="training tokens in all")
    add("--decay-share", type=float, default=0.3, help="share of the tokens that decay takes")
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
        export_run(args.run, args.out, Shape(layers=args.layers))
    else:
        train(args)


if __name__ == "__main__":
    main()
