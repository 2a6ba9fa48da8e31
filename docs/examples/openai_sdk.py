"""The official openai SDK against r1-serve: thinking apart, budgets, votes, errors.

    python openai_sdk.py
    python openai_sdk.py "Solve 3x + 7 = 22."

Fields that OpenAI doesn't have go into `extra_body`; what comes back beyond OpenAI's fields are
attributes all the same (`reasoning_content`, `r1`). Needs `pip install openai`.
"""

import argparse
import os
import sys

from openai import APIStatusError, BadRequestError, OpenAI, OpenAIError, RateLimitError


def stream(client: OpenAI, model: str, question: str) -> None:
    """Thinking and answer never share a delta; the last chunk has the usage."""
    part = None
    for chunk in client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        extra_body={"preset": "math", "thinking_token_budget": 1024},
        stream=True,
        stream_options={"include_usage": True},
    ):
        if chunk.usage:
            thought = chunk.usage.completion_tokens_details.reasoning_tokens
            print(f"\n[{chunk.usage.completion_tokens} tokens, {thought} of them thinking]")
        for choice in chunk.choices:
            thinking = getattr(choice.delta, "reasoning_content", None)
            for name, text in (("thinking", thinking), ("answer", choice.delta.content)):
                if text:
                    print("" if name == part else f"\n[{name}]\n", text, sep="", end="", flush=True)
                    part = name


def no_thinking(client: OpenAI, model: str, question: str) -> None:
    """`reasoning_effort` is a budget by name: none, minimal, low, medium, high."""
    reply = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        reasoning_effort="none",
    )
    usage = reply.usage.completion_tokens_details
    print(f"\n[reasoning_effort none] {usage.reasoning_tokens} tokens of thinking")
    print(reply.choices[0].message.content)


def votes(client: OpenAI, model: str, question: str) -> None:
    """Eight samples at most; the reply is one that gave the most frequent answer."""
    reply = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        extra_body={"preset": "math", "votes": 8},
    )
    tally = reply.r1["votes"]
    print(f"\n[votes] {tally['counted']} counted, {tally['share']:.0%} for the answer")
    for group in tally["answers"]:
        print(f"{group['count']} × {group['answer']}")


def errors(client: OpenAI, model: str) -> None:
    """Errors are the SDK's own, and name the field. It repeats 429 and 503 by itself, when
    `Retry-After` says (`max_retries`, 2); what is raised is left after that."""
    try:
        client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "What is 2 + 2?"}],
            extra_body={"thinking_token_bugdet": 100},
        )
    except BadRequestError as error:
        print(f"\n[{error.status_code}] {error.code}: {error.body['message']}")
    except RateLimitError as error:
        print(f"\n[429] full; come again in {error.response.headers['retry-after']} s")
    except APIStatusError as error:
        print(f"\n[{error.status_code}] {error.message}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("question", nargs="?", default="What is 47 + 85?")
    parser.add_argument("--model", help="default: the first that the server names")
    args = parser.parse_args()
    client = OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
    )
    try:
        model = args.model or client.models.list().data[0].id
        stream(client, model, args.question)
        no_thinking(client, model, args.question)
        votes(client, model, args.question)
        errors(client, model)
    except OpenAIError as error:
        sys.exit(f"{client.base_url}: {error}")


if __name__ == "__main__":
    main()
