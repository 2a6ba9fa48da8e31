"""The way of the common guides: transformers' `generate()` behind Gradio, one request at a time.

AutoTokenizer, AutoModelForCausalLM, and a function in a `gr.Interface` that applies the chat
template, calls `model.generate` with the sampling that the model's makers advise, and decodes what
is new. Gradio's queue runs one call at a time, as by default. Nothing is done to slow it: bfloat16,
KV cache on, torch's own number of threads, no repetition penalty.

What a benchmark needs beside: every reply is exactly as long as asked (`min_new_tokens`) and says
how many tokens it has, and a directory without weights gets random ones.

It runs in an environment of its own (`environment.guides`) as a script, so that it needs nothing of
this package.

    .venvs/guides/bin/python benchmarks/baselines/guides_app.py --model DIR --port 7860
"""

# Gradio isn't installed where types are checked, torch and transformers not always.
# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-call"

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 50}
"""The makers' advice; 50 is what transformers takes where nothing is said, as in the guides."""

Answer = Callable[[str, int], tuple[str, int]]
"""A question and how many tokens to write; the text, and how many there are."""


def load_model(folder: Path) -> Any:
    """A model of transformers, which is not installed where types are checked."""
    import torch
    from transformers import AutoModelForCausalLM

    if list(folder.glob("*.safetensors")):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    return random_model(folder)


def random_model(folder: Path) -> Any:
    """The model of config.json with weights as small as vLLM's dummy ones, without the slow normal
    distribution that transformers starts with."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights():
        config = AutoConfig.from_pretrained(folder)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for weights in model.parameters():
            weights.uniform_(-1e-3, 1e-3)
    return model.eval()


def answers_of(model: Any, tokenizer: Any) -> Answer:
    """The function behind the page."""

    def answer(question: str, new_tokens: int) -> tuple[str, int]:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        output = model.generate(
            **inputs,
            **SAMPLING,
            max_new_tokens=int(new_tokens),
            min_new_tokens=int(new_tokens),
            pad_token_id=tokenizer.eos_token_id,
        )
        new = output[0][inputs["input_ids"].shape[1] :]
        return tokenizer.decode(new, skip_special_tokens=True), len(new)

    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="directory of the model")
    parser.add_argument("--port", type=int, default=7860)
    options = parser.parse_args()

    import gradio
    from transformers import AutoTokenizer

    began_s = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = load_model(options.model)
    took_s = time.perf_counter() - began_s
    print(f"{model.num_parameters()} parameters in {took_s:.1f} s", flush=True)
    app = gradio.Interface(
        fn=answers_of(model, tokenizer),
        inputs=[gradio.Textbox(label="Question"), gradio.Number(label="Tokens", value=2048)],
        outputs=[gradio.Textbox(label="Answer"), gradio.Number(label="Tokens")],
        title="DeepSeek-R1-Distill-Qwen-1.5B",
        api_name="answer",
    )
    app.launch(server_name="127.0.0.1", server_port=options.port, share=False)


if __name__ == "__main__":
    main()
