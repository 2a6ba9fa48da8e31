"""The routes that tell of the router itself: alive, ready, metrics, models, presets."""

from __future__ import annotations

import msgspec
from fastapi import FastAPI, Response

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
        return Response(
            router.telemetry.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

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
