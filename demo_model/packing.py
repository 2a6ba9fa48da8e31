"""Batches of packed rows: a function of the random state, several examples to a row.

Positions restart with each example and the mask keeps each to itself, so that packing changes
nothing but speed. Only completions are targets.
"""

from dataclasses import dataclass
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from demo_model.prompts import EOS, training_example

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
    eos = tokenizer.get_vocab()[EOS]
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
