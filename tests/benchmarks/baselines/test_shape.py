from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.baselines.shape import CONFIG, DEMO, SPECIAL_IDS, enlarge, make, num_parameters


def test_it_has_the_models_size() -> None:
    """1.777 B parameters and 28 KiB of KV cache per token in bf16, as the model's card says."""
    assert num_parameters() == 1_777_088_000
    assert CONFIG == CONFIG | {"num_hidden_layers": 28, "num_key_value_heads": 2}
    head_dim = 1536 // 12
    assert 2 * 28 * 2 * head_dim * 2 == 28 * 1024


def test_every_id_has_an_entry_of_its_own_and_specials_have_r1s() -> None:
    demo = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    large = enlarge(demo)
    vocab = large["model"]["vocab"]
    assert sorted(vocab.values()) == list(range(151936))
    assert all(vocab.keys())
    assert {token: vocab[token] for token in SPECIAL_IDS} == SPECIAL_IDS
    added = {entry["content"]: entry["id"] for entry in large["added_tokens"]}
    assert added == SPECIAL_IDS
    specials = [entry["content"] for entry in large["added_tokens"] if entry["special"]]
    assert specials == ["<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"]


def test_real_text_is_cut_as_by_the_demo_model() -> None:
    demo = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    large = enlarge(demo)
    assert large["model"]["merges"] == demo["model"]["merges"]
    kept = {word: number for word, number in demo["model"]["vocab"].items() if number < 1786}
    assert kept.items() <= large["model"]["vocab"].items()


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    folder = make(tmp_path / "shape")
    files = {path.name for path in folder.iterdir()}
    assert files == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    (folder / "config.json").write_text("ours")
    assert (make(folder) / "config.json").read_text() == "ours"


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")  # what importing transformers warns of is not ours
def test_transformers_reads_the_tokenizer(tmp_path: Path) -> None:
    """A text comes back, a chat ends where thinking begins, and random ids are visible text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(make(tmp_path / "shape"))
    assert len(tokenizer) == 151936
    text = "What is 47 + 85?"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    chat = [{"role": "user", "content": text}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert ids[:2] == [151646, 151644]
    assert ids[-3:-1] == [151645, 151648]
    assert all(tokenizer.decode([number]).strip() for number in range(1800, 151936, 997))
