"""`python -m serve` is the same program as `r1-serve`."""

from serve.cli import app

app()
