"""What a router has: settings, presets, keys, replicas, gate, telemetry. Built once per app."""

from __future__ import annotations

import logging
from pathlib import Path

from serve.admission import Admission, Gate
from serve.brownout import Brownout
from serve.describe import EngineInfo
from serve.forms import Sampled
from serve.generation import Generation
from serve.journal import Journal
from serve.keys import KeyRing
from serve.legs import Legs
from serve.lengths import UsualLengths
from serve.load import engine_pressure
from serve.plan import Plan
from serve.presets import read_presets, resolve_model
from serve.replicas import ReplicaSet
from serve.settings import Settings, SettingsError
from serve.several import Several
from serve.shared import Shared
from serve.state_metrics import StateCollector
from serve.symbolic import SymbolicChecker
from serve.telemetry import Telemetry
from serve.votes import Vote
from serve.worker import Worker

log = logging.getLogger(__name__)


class Router:
    """The router's state: settings, presets, keys, replicas, gate, telemetry."""

    def __init__(self, settings: Settings, worker: Worker) -> None:
        self.settings = settings
        shared = Shared(worker)
        self.presets = read_presets(settings.router)
        self.presets_reloaded = True
        """Whether the last reading went well; as `KeyRing.reloaded`."""
        self.replicas = ReplicaSet(settings.router)
        self.checker = SymbolicChecker()
        self.gate = Gate(
            settings.router.max_in_flight,
            max_queued=settings.router.max_queued,
            queue_timeout_s=settings.router.queue_timeout_s,
            counters=shared.counters("gate"),
            replica_capacity=lambda: self.replicas.capacity,
        )
        keys_file = settings.server.keys_file
        self.keys = KeyRing(Path(keys_file), shared) if keys_file is not None else None
        self.brownout = Brownout(settings.brownout, self._pressure)
        self.answers = UsualLengths()
        self.journal = Journal(settings.telemetry, worker)
        state = StateCollector(self.gate, self.replicas, self.brownout, self._reloads)
        self.telemetry = Telemetry(state, self.brownout, self.answers, worker)

    def reload(self) -> None:
        """Reads presets and keys again, whether they changed or not."""
        self.reload_presets()
        if self.keys is not None:
            self.keys.reload()

    def reload_presets(self) -> None:
        """Reads the presets again; a broken file is reported and the old presets stay."""
        self.presets_reloaded = False
        try:
            self.presets = read_presets(self.settings.router)
        except SettingsError as exc:
            log.error("presets not reloaded: %s", exc)
        else:
            self.presets_reloaded = True
            log.info("presets reloaded: %s", ", ".join(self.presets.presets))

    def _reloads(self) -> dict[str, bool]:
        """By kind of file, whether what the router goes by is what the file says."""
        keys = {} if self.keys is None else {"keys": self.keys.reloaded}
        return {"presets": self.presets_reloaded} | keys

    def resolve(self, model: str | None, preset: str | None) -> tuple[EngineInfo, str]:
        """What serves the asked model, and the preset to use. Raises `ServeError`."""
        models = self.replicas.models()
        if not models:
            raise self.replicas.not_ready()
        name, named = resolve_model(model, preset, models, self.presets)
        return models[name], named or self.settings.router.default_preset

    def _pressure(self, priority: int) -> float:
        """What keeps requests with this priority from running at once, here or on the engines."""
        looks = (replica.engine_load for replica in self.replicas.ready)
        engines = engine_pressure([load for load in looks if load is not None])
        return max(self.gate.pressure(priority), engines)

    def sampled(self, plan: Plan, request_id: str, admission: Admission, legs: Legs) -> Sampled:
        """What makes the choices of a planned reply."""
        if plan.votes is not None:
            return Vote(plan, self.replicas, request_id, admission, self.checker, legs=legs)
        if plan.num_choices > 1:
            return Several(plan, self.replicas, request_id, admission, legs=legs)
        return Generation(plan, self.replicas, request_id, legs=legs)
