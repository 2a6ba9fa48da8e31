"""The official anthropic SDK against r1-serve: whole, streamed, tokens counted.

    python anthropic_sdk.py "Solve 3x + 7 = 22."

The model always thinks, so the answer is the block of type "text", not the first block. Needs
`pip install anthropic`.
"""

import argparse
import os
import sys

from anthropic import Anthropic, AnthropicError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("question", nargs="?", default="What is 47 + 85?")
    parser.add_argument("--model", help="default: the first that the server names")
    args = parser.parse_args()
    url = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    client = Anthropic(
        base_url=url.removesuffix("/v1"),  # Anthropic's paths begin with it
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
    )
    try:
        show(client, args.model or client.models.list().data[0].id, args.question)
    except AnthropicError as error:
        sys.exit(f"{client.base_url}: {error}")


def show(client: Anthropic, model: str, question: str) -> None:
    messages = [{"role": "user", "content": question}]
    part = None
    with client.messages.stream(
        model=f"{model}:math",
        max_tokens=2048,
        thinking={"type": "enabled", "budget_tokens": 1024},
        messages=messages,
    ) as stream:
        for event in stream:
            if event.type in ("thinking", "text"):
                text = event.thinking if event.type == "thinking" else event.text
                print("" if event.type == part else f"\n[{event.type}]\n", text, sep="", end="")
                part = event.type
        usage = stream.get_final_message().usage
    print(f"\n[{usage.input_tokens} tokens in, {usage.output_tokens} out]")

    message = client.messages.create(
        model=f"{model}:math", max_tokens=2048, messages=messages, extra_body={"votes": 8}
    )
    answer = next(block.text for block in message.content if block.type == "text")
    print(f"\n[votes] {message.r1['votes']['answers']}\n{answer}")

    count = client.messages.count_tokens(model=model, messages=messages)
    print(f"\n[count_tokens] {count.input_tokens}")


if __name__ == "__main__":
    main()
