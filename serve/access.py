"""What a request must show, and what it may claim for it."""

from __future__ import annotations

from starlette.types import Scope

from serve.admission import Claim, priority_of
from serve.keys import Holder, KeyRing
from serve.playground import ENTRANCES, PREFIX
from serve.protocol import GenerationRequest

NEEDS_NO_KEY = frozenset({"/health", "/ready", "/metrics", "/docs", "/openapi.json"} | ENTRANCES)
"""And the files of the pages: a page that asks for the key can't ask for one."""
_HOLDER = "r1.holder"
"""Scope key of who sent the request, where keys are needed."""


def authenticate(scope: Scope, keys: KeyRing | None) -> None:
    """Notes in the scope who sent the request; nothing where no keys are asked for.

    Raises `InvalidKey`. It needs headers only, so it comes before the body is read.
    """
    path = scope["path"]
    if keys is not None and path not in NEEDS_NO_KEY and not path.startswith(PREFIX):
        scope[_HOLDER] = keys.holder_of(scope["headers"])


def key_name(scope: Scope) -> str | None:
    """The key that the request was authenticated by."""
    holder: Holder | None = scope.get(_HOLDER)
    return None if holder is None else holder.account.name


def claim_of(scope: Scope, body: bytes, asked: GenerationRequest) -> Claim:
    """The claim of a request that was authenticated. Only this process knows the hash: it differs
    from run to run, so that nobody can send requests that pass for others."""
    holder: Holder | None = scope.get(_HOLDER)
    best = None if holder is None else holder.key.best_priority
    return Claim(
        priority=priority_of(asked.priority, asked.service_tier, best),
        account=None if holder is None else holder.account,
        who=hash(body),
    )
