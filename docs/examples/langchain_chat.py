"""LangChain over r1-serve, thinking included.

    python langchain_chat.py "Solve 3x + 7 = 22."

`ChatOpenAI` works as it is, but for the thinking: it drops fields that aren't OpenAI's, so
`reasoning_content` is lost; with `use_responses_api=True` whole replies have the trace in their
reasoning block, but streams lose it. `ChatR1` below puts it where LangChain keeps that of other
makers' models: `additional_kwargs["reasoning_content"]`, and so into `content_blocks`; `r1` goes
into `response_metadata`. It overrides two private methods: read with langchain-openai 1.7.
Needs `pip install langchain-openai`.
"""

import argparse
import os
import sys
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from openai import OpenAI, OpenAIError

PROVIDER = "r1-serve"  # not "openai", whose translator of content blocks looks for no thinking


class ChatR1(ChatOpenAI):
    def _convert_chunk_to_generation_chunk(self, chunk: dict, *args: Any) -> Any:
        generation = super()._convert_chunk_to_generation_chunk(chunk, *args)
        if generation and chunk.get("choices"):
            _add(generation.message, chunk["choices"][0]["delta"], chunk)
        return generation

    def _create_chat_result(self, response: Any, *args: Any) -> Any:
        result = super()._create_chat_result(response, *args)
        whole = response if isinstance(response, dict) else response.model_dump()
        for generation, choice in zip(result.generations, whole["choices"], strict=True):
            _add(generation.message, choice["message"], whole)
        return result


def _add(message: AIMessage, said: dict, reply: dict) -> None:
    message.response_metadata["model_provider"] = PROVIDER
    if thinking := said.get("reasoning_content"):
        message.additional_kwargs["reasoning_content"] = thinking
    if "r1" in reply:
        message.response_metadata["r1"] = reply["r1"]


def stream(model: ChatR1, question: str) -> None:
    """Chunks add up to the whole message."""
    message, part = None, None
    for chunk in model.stream(question):
        message = chunk if message is None else message + chunk
        for block in chunk.content_blocks:
            kind = block["type"]
            if text := block.get("reasoning") or block.get("text"):
                print("" if kind == part else f"\n[{kind}]\n", text, sep="", end="", flush=True)
                part = kind
    print(f"\n[{message.usage_metadata['output_token_details']['reasoning']} tokens of thinking]")


def chain(model: ChatR1, question: str) -> None:
    """In a chain, only the answer goes on. R1 wants no system prompt; the router puts one before
    the question."""
    prompt = ChatPromptTemplate([("system", "You help pupils."), ("user", "{question}")])
    print("\n[chain]", (prompt | model | StrOutputParser()).invoke({"question": question}))


def votes(model: ChatR1, question: str) -> None:
    voting = model.model_copy(update={"extra_body": {"preset": "math", "votes": 8}})
    message = voting.invoke(question)
    print("\n[votes]", message.response_metadata["r1"]["votes"]["answers"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("question", nargs="?", default="What is 47 + 85?")
    parser.add_argument("--model", help="default: the first that the server names")
    args = parser.parse_args()
    url = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    key = os.environ.get("OPENAI_API_KEY", "none")
    try:
        name = args.model or OpenAI(base_url=url, api_key=key).models.list().data[0].id
        model = ChatR1(
            base_url=url,
            api_key=key,
            model=name,
            extra_body={"preset": "math", "thinking_token_budget": 1024},
            stream_usage=True,
        )
        stream(model, args.question)
        chain(model, args.question)
        votes(model, args.question)
    except OpenAIError as error:
        sys.exit(f"{url}: {error}")


if __name__ == "__main__":
    main()
