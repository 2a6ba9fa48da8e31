"""r1-serve: a reasoning-aware router over stock vLLM, and the launcher that runs both."""

__version__ = "0.1.0"
