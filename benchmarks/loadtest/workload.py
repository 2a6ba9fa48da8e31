"""What is asked: a TOML file of tenants, each with its prompts, lengths, turns and request fields.

Everything is drawn from seeds, so that the same workload asks the same at the same load; each load
and repeat asks other things, or the engine would find them in its prefix cache. The shipped ones
lie in `benchmarks/workloads/`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from benchmarks.loadtest.load import Arrival
from benchmarks.loadtest.prompts import SHIPPED, FromFile, Prompts, Source, Task, source_of
from benchmarks.loadtest.spread import Number, draw, drawn_field
from benchmarks.stats import percentile
from serve.settings import SettingsError, read_toml
from serve.strict import StrictError, convert


class Tenant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of user. A conversation has `turns` requests, `pause_s` of reading between them;
    `fields` go into each request, and those that are tables are drawn."""

    name: str
    weight: float = 1.0
    prompts: Prompts
    turns: Number = 1
    pause_s: Number = 0
    system: str | None = None
    fields: dict[str, Any] = {}


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    name: str = ""
    description: str = ""
    seed: int = 1
    tenants: list[Tenant] = []


@dataclass(frozen=True, slots=True)
class Turn:
    """One request to come: its task, the pause before it, its fields."""

    task: Task
    pause_s: float
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    tenant: str
    system: str | None
    turns: Sequence[Turn]


def load_workload(name: str) -> Workload:
    """A shipped workload by its name, or one from a file by its path. Raises `SettingsError`."""
    path = Path(name) if name.endswith(".toml") else SHIPPED / f"{name}.toml"
    if not path.is_file() and not name.endswith(".toml"):
        raise SettingsError(
            f"no workload {name!r}; there are: {', '.join(shipped())}, or give a .toml file"
        )
    try:
        workload = convert(read_toml(path), Workload)
    except StrictError as error:
        raise SettingsError(f"{path}: {error}") from error
    if not workload.tenants:
        raise SettingsError(
            f"{path}: `tenants` is empty; a workload needs one [[tenants]] at least"
        )
    tenants = [_with_digest(tenant, path.parent) for tenant in workload.tenants]
    return msgspec.structs.replace(workload, name=workload.name or path.stem, tenants=tenants)


def folder_of(name: str) -> Path:
    """Where the files of a workload are."""
    return Path(name).parent if name.endswith(".toml") else SHIPPED


def shipped() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def _with_digest(tenant: Tenant, folder: Path) -> Tenant:
    if not isinstance(tenant.prompts, FromFile):
        return tenant
    path = folder / tenant.prompts.path
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    prompts = msgspec.structs.replace(tenant.prompts, sha256=digest)
    return msgspec.structs.replace(tenant, prompts=prompts)


class Conversations:
    """An endless supply of a workload's conversations. `nonce` makes texts of words differ from
    those of an earlier test on the same server."""

    def __init__(self, workload: Workload, folder: Path = SHIPPED, nonce: str = "") -> None:
        self.workload = workload
        self._sources = {t.name: source_of(t.prompts, folder, nonce) for t in workload.tenants}
        self.restart()

    def restart(self, part: str = "") -> None:
        """Begins the supply of one load in one repeat."""
        self._rng = Random(f"{self.workload.seed}/{part}")

    def next(self, arrival: Arrival | None = None) -> Conversation:
        """`arrival` may say how long it is to be, in tokens."""
        tenants = self.workload.tenants
        (tenant,) = self._rng.choices(tenants, [tenant.weight for tenant in tenants])
        rng = Random(self._rng.getrandbits(64))
        ask = self._sources[tenant.name]
        num_turns = max(1, round(draw(tenant.turns, rng)))
        turns = [self._turn(tenant, ask, rng, arrival) for _ in range(num_turns)]
        return Conversation(tenant.name, tenant.system, turns)

    def _turn(
        self,
        tenant: Tenant,
        ask: Source,
        rng: Random,
        arrival: Arrival | None,
    ) -> Turn:
        task = ask(rng, arrival.prompt_tokens if arrival else None)
        fields = {name: drawn_field(value, rng) for name, value in tenant.fields.items()}
        if arrival and arrival.output_tokens:
            fields |= {"max_tokens": arrival.output_tokens, "ignore_eos": True}
        fields.setdefault("seed", rng.getrandbits(31))
        return Turn(task, draw(tenant.pause_s, rng), fields)


def prompt_words(workload: Workload, num: int = 400) -> dict[str, tuple[float, float, float]]:
    """Tenant → words of its prompts at the 10th, 50th and 90th percentile."""
    conversations, found = Conversations(workload), dict[str, list[int]]()
    for _ in range(num):
        conversation = conversations.next()
        words = len(conversation.turns[0].task.prompt.split())
        found.setdefault(conversation.tenant, []).append(words)
    return {
        tenant: (percentile(words, 10), percentile(words, 50), percentile(words, 90))
        for tenant, words in found.items()
    }
