"""A model directory of DeepSeek-R1-Distill-Qwen-1.5B's shape, made without a download or weights.

It owns config.json (the one of the model's repository), a tokenizer of as many entries, and R1's
chat template. Weights are the reader's affair: vLLM makes some with `--load-format dummy`,
`guides_app` makes its own. So what such a model costs is real and what it says is noise.

Random weights produce random ids. So every id decodes to some visible text: a stream of empty texts
would have no first token to time. The entries come from the demo model's tokenizer (1,786 of real
text, with merges), filler such as " w1ez" up to R1's special tokens, these at R1's own ids, and
filler up to the size of the embedding. Prompts are cut into somewhat more tokens than by Qwen's
tokenizer, the same for all who serve the shape.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo_model" / "weights"
NAME = "r1-distill-qwen-1.5b-shape"

CONFIG: dict[str, object] = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 1536,
    "initializer_range": 0.02,
    "intermediate_size": 8960,
    "max_position_embeddings": 131072,
    "max_window_layers": 21,
    "model_type": "qwen2",
    "num_attention_heads": 12,
    "num_hidden_layers": 28,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
"""https://huggingface.co/deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B/blob/main/config.json"""

SPECIAL_IDS = {
    "<｜end▁of▁sentence｜>": 151643,
    "<｜User｜>": 151644,
    "<｜Assistant｜>": 151645,
    "<｜begin▁of▁sentence｜>": 151646,
    "<|EOT|>": 151647,
    "<think>": 151648,
    "</think>": 151649,
}
"""R1's tokenizer.json; only the first and the fourth are "special", the others stay in the text."""
_SPECIAL = ("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>")

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_SPACE = "Ġ"  # how byte-level BPE writes a space


def num_parameters(config: dict[str, object] = CONFIG) -> int:
    """Weights of a Qwen2 model of this shape, embeddings untied."""
    hidden, ff, layers, vocab, heads, kv_heads = (
        int(str(config[key]))
        for key in (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "vocab_size",
            "num_attention_heads",
            "num_key_value_heads",
        )
    )
    kv = hidden // heads * kv_heads
    attention = 2 * hidden * hidden + 2 * hidden * kv + hidden + 2 * kv  # q, k, v have biases
    return layers * (attention + 3 * hidden * ff + 2 * hidden) + 2 * vocab * hidden + hidden


def make(folder: Path) -> Path:
    """The model directory in `folder`, made unless it is there; about a second."""
    done = folder / "tokenizer_config.json"
    if done.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "config.json", CONFIG)
    tokenizer = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    _write(folder / "tokenizer.json", enlarge(tokenizer))
    shutil.copy(DEMO / "chat_template.jinja", folder)
    settings = json.loads((DEMO / "tokenizer_config.json").read_text(encoding="utf-8"))
    _write(done, settings | {"model_max_length": 16384})  # the model's own tokenizer_config.json
    return folder


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def enlarge(tokenizer: dict[str, object]) -> dict[str, object]:
    """A tokenizer.json with the same merges, R1's special ids, and an entry for every other id."""
    model = tokenizer["model"]
    if not isinstance(model, dict):
        raise TypeError("not a tokenizer.json: `model` is no object")
    vocab = dict(model["vocab"])
    for token in SPECIAL_IDS:
        vocab.pop(token, None)
    taken = set(vocab.values()) | set(SPECIAL_IDS.values())
    free = (number for number in range(int(str(CONFIG["vocab_size"]))) if number not in taken)
    fillers = _fillers(vocab)
    for number in free:
        vocab[next(fillers)] = number
    vocab |= SPECIAL_IDS
    added = [_added(token, number) for token, number in SPECIAL_IDS.items()]
    return tokenizer | {"added_tokens": added, "model": {**model, "vocab": vocab}}


def _fillers(vocab: dict[str, int]) -> Iterator[str]:
    """Words that no text is cut into, as no merge makes them: " w0", " w1", … in base 36."""
    number = 0
    while True:
        if (word := f"{_SPACE}w{_base36(number)}") not in vocab:
            yield word
        number += 1


def _base36(number: int) -> str:
    digits = _DIGITS[number % 36]
    return _base36(number // 36) + digits if number >= 36 else digits


def _added(token: str, number: int) -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, **flags, "special": token in _SPECIAL}
