"""The KV blocks of an engine whose decoding sequences all grow by a token a step. Pure.

Each sequence needs a further block every `block_tokens` steps. Which steps those are is its phase:
the remainder of the step's number. So all that decode are counted by phase, and many steps at once
cost as much as one.
"""

from __future__ import annotations


class KvBlocks:
    """`step` is everywhere the number of the step that comes next."""

    def __init__(self, num_blocks: int, block_tokens: int) -> None:
        self.num_blocks, self.block_tokens = num_blocks, block_tokens
        self.taken = 0
        self.num_growing = 0
        self._growing = [0] * block_tokens

    def blocks_of(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)

    def fits(self, blocks: int, step: int) -> bool:
        """Whether so many are free beside what the step itself needs."""
        needed = self._growing[step % self.block_tokens]
        return self.taken + needed + blocks <= self.num_blocks

    def begin_growing(self, tokens: int, step: int) -> int:
        """A sequence that holds `tokens` decodes from this step on; returns its phase."""
        phase = (step - tokens) % self.block_tokens
        self._growing[phase] += 1
        self.num_growing += 1
        return phase

    def end_growing(self, phase: int) -> None:
        self._growing[phase] -= 1
        self.num_growing -= 1

    def grow(self, step: int, num_steps: int) -> None:
        rounds, rest = divmod(num_steps, self.block_tokens)
        self.taken += rounds * self.num_growing
        self.taken += sum(self._growing[(step + i) % self.block_tokens] for i in range(rest))

    def steps_that_fit(self, step: int, most: int) -> int:
        """How many of the next `most` steps the free blocks allow."""
        rounds, left = divmod(self.num_blocks - self.taken, self.num_growing)
        num_steps = rounds * self.block_tokens
        while num_steps < most:
            left -= self._growing[(step + num_steps) % self.block_tokens]
            if left < 0:
                return num_steps
            num_steps += 1
        return most
