"""The shipped files: sizes, token ids, template; and, with torch, equality with transformers."""

import json
from pathlib import Path
from random import Random

import pytest

from demo_model.prompts import ASSISTANT, BOS, END_THINK, EOS, THINK, USER, render

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "47+85=?"},
    {"role": "assistant", "content": "1\n</think>\n\n132"},
    {"role": "user", "content": "谢谢"},
]
WEIGHTS = Path(__file__).parents[2] / "demo_model" / "weights"


def read(name: str) -> dict[str, object]:
    loaded = json.loads((WEIGHTS / name).read_text("utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_weights_stay_small() -> None:
    assert (WEIGHTS / "model.safetensors").stat().st_size <= 15_000_000


def test_special_tokens_have_r1s_spellings_and_only_the_ends_are_special() -> None:
    added = read("tokenizer.json")["added_tokens"]
    assert isinstance(added, list)
    assert {t["content"]: t["special"] for t in added} == {
        EOS: True, USER: False, ASSISTANT: False, BOS: True, THINK: False, END_THINK: False,
    }  # fmt: skip
    ids = {t["content"]: t["id"] for t in added}
    config = read("config.json")
    assert (config["bos_token_id"], config["eos_token_id"]) == (ids[BOS], ids[EOS])
    assert max(ids.values()) == config["vocab_size"] - 1
    assert EOS == "<\uff5cend\u2581of\u2581sentence\uff5c>"


def test_generation_defaults_are_r1s() -> None:
    generation = read("generation_config.json")
    assert (generation["temperature"], generation["top_p"]) == (0.6, 0.95)


def test_digits_are_single_tokens() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(WEIGHTS / "tokenizer.json"))
    assert tokenizer.encode("4738").tokens == list("4738")


@pytest.mark.engine
def test_chat_template_gives_what_training_saw() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(WEIGHTS))
    text = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert text == render(MESSAGES)


@pytest.mark.engine
def test_logits_equal_transformers_qwen2(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from demo_model.model import Qwen2, Shape, causal_inputs, export

    torch.manual_seed(0)
    model = Qwen2(Shape(layers=2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
        parameter.data = parameter.data.bfloat16().float()
    export(model, tmp_path, 1, 0)
    theirs = transformers.Qwen2ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.randint(0, 1792, (2, 60))
    ours = model(ids, *causal_inputs(ids, model.shape))
    torch.testing.assert_close(ours, theirs(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.engine
def test_packed_rows_keep_examples_apart() -> None:
    torch = pytest.importorskip("torch")
    from demo_model.model import Qwen2, Shape, causal_inputs, rotary
    from demo_model.packing import make_batches
    from demo_model.tokenizer import load_tokenizer

    torch.manual_seed(0)
    model = Qwen2(Shape(layers=2))
    batch = make_batches(load_tokenizer(WEIGHTS), Random(0), ((1, 512),))[0]
    cos, sin = rotary(batch.positions, model.shape)
    packed = model(batch.ids, cos, sin, batch.mask())
    inside = batch.documents[0] == 1
    alone = batch.ids[0][inside][None]
    expected = model(alone, *causal_inputs(alone, model.shape))[0]
    torch.testing.assert_close(packed[0][inside], expected, atol=1e-4, rtol=1e-4)
