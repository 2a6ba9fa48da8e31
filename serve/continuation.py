"""Continuing a chat's text exactly, on another engine: whether it can be, and what to send. Pure.

Chat templates strip the trace from earlier turns, so a cut-off chat can't go on as a chat. It goes
on as a plain completion whose prompt is token ids: the chat's own, then those generated so far
(checked on vLLM 0.32 at temperature 0: the text is the undisturbed one, for every cut). The
thinking budget holds on, since vLLM counts thinking tokens in the prompt too
(`vllm/v1/sample/thinking_budget_state.py`). What can't be carried over: a seed's random state, and
presence and frequency penalties for text that counts as prompt now.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve.presets import BUDGET, Plan
from serve.protocol import GenerationRequest

COMPLETIONS_PATH = "/v1/completions"
_CARRIED = frozenset(
    {*GenerationRequest.__struct_fields__, BUDGET, "stream_interval"}
    - {"n", "max_tokens", "min_tokens", "response_format", "structured_outputs"}
)


def obstacle(plan: Plan) -> str | None:
    """The field for which this chat can't be continued exactly, or None.

    Tool calls and grammars are parsed by the engine from the beginning of the text; a completion's
    log probabilities have another form.
    """
    if plan.num_choices > 1:
        return "n"
    body = plan.body
    if body.get("tools") and body.get("tool_choice") != "none":
        return "tools"
    if body.get("logprobs"):
        return "logprobs"
    response_format = body.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type") != "text":
        return "response_format"
    return "structured_outputs" if body.get("structured_outputs") else None


def completion_body(
    plan: Plan, prompt_ids: Sequence[int], ids: Sequence[int], max_model_len: int
) -> dict[str, object]:
    """The request for what follows `ids`, with the chat's own sampling and what is left of its
    limits. The engine refuses it where nothing is left."""
    body = {key: value for key, value in plan.body.items() if key in _CARRIED}
    room = max_model_len - len(prompt_ids)
    limit = min(int(str(plan.body.get("max_tokens", room))), room)
    body["prompt"] = [*prompt_ids, *ids]
    body["max_tokens"] = limit - len(ids)
    if "min_tokens" in plan.body:
        body["min_tokens"] = max(0, int(str(plan.body["min_tokens"])) - len(ids))
    return body
