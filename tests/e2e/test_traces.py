"""Traces and the access log with real vLLM."""

from __future__ import annotations

import pytest

from serve.settings import TelemetrySettings
from serve.worker import Worker
from tests.conftest import RunningEngine
from tests.listening import Log
from tests.support import eventually, running_router

pytestmark = pytest.mark.engine


async def test_real_vllm_goes_on_with_the_trace(
    log: Log, engine: RunningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its span lies under the call's; log line and spans agree with the reply's usage."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    receiver = engine.traces
    telemetry = TelemetrySettings(access_log=True, otlp_endpoint=receiver.url)
    worker = Worker(log_fd=log.write_fd)
    async with running_router(engine.url, telemetry=telemetry, worker=worker) as router:
        reply = (await router.chat("What is 12 + 30?")).json()
        line = await log.next()
        trace_id = line["trace_id"]
        await eventually(lambda: len(receiver.of(trace_id)) >= 2 + line["num_legs"])
    spans = receiver.of(trace_id)
    usage = reply["usage"]
    thought = usage["completion_tokens_details"]["reasoning_tokens"]
    assert line["reasoning_tokens"] == thought
    assert line["reasoning_tokens"] + line["answer_tokens"] == usage["completion_tokens"]
    (request,) = [span for span in spans if span.name.startswith("chat ")]
    assert request.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    theirs = [span for span in spans if span.name == "llm_request"]
    assert [span.parent_id for span in theirs] == [leg["span_id"] for leg in line["legs"]]
    assert theirs[0].resource["service.name"] == "vllm"
    made = sum(span.attributes["gen_ai.usage.completion_tokens"] for span in theirs)
    assert made == usage["completion_tokens"]
