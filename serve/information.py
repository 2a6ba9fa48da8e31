"""The routes that tell of the router itself: alive, ready, metrics, replicas, models, presets."""

from __future__ import annotations

import time

import msgspec
from fastapi import FastAPI, Response

from serve.replica import Replica
from serve.state import Router


def add_information_routes(app: FastAPI, router: Router) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Alive: the process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, object]:
        """Can serve: at least one ready replica, and not draining."""
        app.state.drain.refuse()
        if not router.replicas.ready:
            raise router.replicas.not_ready()
        return {"status": "ok", "replicas_ready": len(router.replicas.ready)}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus' text format; names begin with `r1_`."""
        return Response(
            router.telemetry.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    @app.get("/replicas")
    async def replicas() -> dict[str, object]:
        """Every engine as this process of the router sees it, those that leave at the end."""
        both = (*router.replicas.replicas, *router.replicas.leaving)
        return {"object": "list", "data": [_seen(replica) for replica in both]}

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        """Every served model, plain and with each preset."""
        served = router.replicas.models()
        cards = [
            {
                "id": name,
                "object": "model",
                "created": 0,
                "owned_by": "r1-serve",
                "max_model_len": info.max_model_len,
            }
            for model, info in served.items()
            for name in (model, *(f"{model}:{preset}" for preset in router.presets.presets))
        ]
        return {"object": "list", "data": cards}

    @app.get("/v1/models/{model}")
    async def model(model: str) -> dict[str, object]:
        """One served model, plain or with a preset."""
        info, _ = router.resolve(model, None)
        return {
            "id": model,
            "object": "model",
            "created": 0,
            "owned_by": "r1-serve",
            "max_model_len": info.max_model_len,
        }

    @app.get("/v1/presets")
    async def presets() -> dict[str, object]:
        """Every preset with its values; null means that the client and the engine decide."""
        book = router.presets
        return {
            "object": "list",
            "default": router.settings.router.default_preset,
            "reasoning_effort": book.reasoning_effort,
            "data": [
                {"id": name, "object": "preset", **msgspec.to_builtins(preset)}
                for name, preset in book.presets.items()
            ],
        }


def _seen(replica: Replica) -> dict[str, object]:
    info = replica.info
    load = replica.engine_load if info else None
    return {
        "url": replica.url,
        "object": "replica",
        "ready": replica.ready,
        "state": replica.health.state(time.monotonic()).value,
        "model": info and info.model,
        "in_flight": replica.num_in_flight,
        "running": load and load.num_running,
        "waiting": load and load.num_waiting,
        "kv_cache_usage": load and load.kv_cache_usage,
        "ejections": replica.num_ejections,
        "last_error": replica.last_error or None,
    }
