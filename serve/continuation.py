"""Continuing a chat's text exactly, in another engine call: whether it can be, and what to send.
Pure.

Chat templates strip the trace from earlier turns, so a cut-off chat can't go on as a chat. It goes
on as a plain completion whose prompt is token ids: the chat's own, then those generated so far
(checked on vLLM 0.32 at temperature 0: the text is the undisturbed one, for every cut). The
thinking budget holds on, since vLLM counts thinking tokens in the prompt too
(`vllm/v1/sample/thinking_budget_state.py`). What can't be carried over: a seed's random state, and
presence and frequency penalties for text that counts as prompt now.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve.plan import Plan
from serve.presets import BUDGET
from serve.protocol import GenerationRequest

COMPLETIONS_PATH = "/v1/completions"
_CARRIED = frozenset(
    {*GenerationRequest.__struct_fields__, BUDGET, "stream_interval"}
    - {"n", "max_tokens", "min_tokens"}
)


def obstacle(plan: Plan, *, grammar_begun: bool) -> str | None:
    """The field for which this chat can't be continued exactly, or None.

    Tool calls are parsed by the engine from the beginning of the text; a completion's log
    probabilities have another form; a grammar must hold from its beginning on, which for an engine
    that knows of thinking is the answer's.
    """
    body = plan.body
    if body.get("tools") and body.get("tool_choice") != "none":
        return "tools"
    if body.get("logprobs"):
        return "logprobs"
    if not grammar_begun:
        return None
    response_format = body.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type") != "text":
        return "response_format"
    return "structured_outputs" if body.get("structured_outputs") else None


def completion_body(
    plan: Plan, prompt_ids: Sequence[int], ids: Sequence[int], max_tokens: int
) -> dict[str, object]:
    """The request for what follows `ids`, at most `max_tokens`, with the chat's own sampling."""
    body = {key: value for key, value in plan.body.items() if key in _CARRIED}
    body["prompt"] = [*prompt_ids, *ids]
    body["max_tokens"] = max_tokens
    if "min_tokens" in plan.body:
        body["min_tokens"] = max(0, int(str(plan.body["min_tokens"])) - len(ids))
    return within_limit(body)


def within_limit(body: dict[str, object]) -> dict[str, object]:
    """One leg's part of what the client wants at least: vLLM refuses more than `max_tokens`."""
    least, most = body.get("min_tokens"), body.get("max_tokens")
    if isinstance(least, int) and isinstance(most, int) and least > most:
        return body | {"min_tokens": most}
    return body
