"""The router against its own OpenAPI document: requests made from it, replies held against it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.faults.support import router_over, stand_in_process

OPERATIONS = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/tokenize"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
    ("GET", "/replicas"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("GET", "/v1/presets"),
]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    quick = ("--step-ms", "0.2", "--prefill-ms", "0", "--think-tokens", "3", "--answer-tokens", "3")
    with stand_in_process(*quick) as engine, router_over(engine) as (url, _):
        yield url


def test_the_document_has_every_operation(url: str) -> None:
    """So that none goes untested below."""
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    found = {(method.upper(), path) for path, item in paths.items() for method in item}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_the_document_is_true(url: str, method: str, path: str, mode: GenerationMode) -> None:
    """Requests as it wants them, and others: no 5xx, and replies in the forms it promises."""
    schema = schemathesis.openapi.from_dict(httpx.get(f"{url}/openapi.json").json())
    operation = schema[path][method]
    if mode is GenerationMode.NEGATIVE and method == "GET":
        return  # takes nothing that could be wrong

    @settings(
        max_examples=40,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("n"), int):
            case.body["n"] = min(case.body["n"], 3)  # the stand-in makes every choice there is
        case.call_and_validate(base_url=url, checks=CHECKS)

    check()
