"""The tokenizer: a small byte-level BPE with Qwen2's pre-tokeniser and R1's special tokens.

Qwen2's pattern splits numbers into single digits, which column arithmetic needs. The six added
tokens have R1's exact spellings (fullwidth bars, U+FF5C); only the begin and end tokens are
"special", so that `<think>` and `</think>` stay in decoded text, as with R1.
"""

import json
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from demo_model.prompts import ASSISTANT, BOS, END_THINK, EOS, THINK, USER, training_example

VOCAB_SIZE = 1792
ADDED = (EOS, USER, ASSISTANT, BOS, THINK, END_THINK)  # in R1's order
# From Qwen2's tokenizer.json.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# R1-Distill's template, less its tool calls: system text without a marker, thinking cut from
# earlier replies, and a generation prompt that opens the trace.
CHAT_TEMPLATE = (
    "{%- if not add_generation_prompt is defined %}{%- set add_generation_prompt = false %}"
    "{%- endif %}{%- set ns = namespace(system='', first=true) %}"
    "{%- for message in messages %}{%- if message['role'] == 'system' %}"
    "{%- if ns.first %}{%- set ns.system = message['content'] %}{%- set ns.first = false %}"
    "{%- else %}{%- set ns.system = ns.system + '\\n\\n' + message['content'] %}{%- endif %}"
    "{%- endif %}{%- endfor %}{{- bos_token }}{{- ns.system }}"
    "{%- for message in messages %}{%- if message['role'] == 'user' %}"
    "{{- '<｜User｜>' + message['content'] }}"
    "{%- elif message['role'] == 'assistant' and message['content'] is not none %}"
    "{{- '<｜Assistant｜>' + message['content'].split('</think>')[-1] + eos_token }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\\n' }}{%- endif %}"
)


def train_tokenizer(seed: int, num_examples: int = 40_000) -> Tokenizer:
    """Train the BPE on the training stream's own text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(ADDED),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = Random(f"tokenizer:{seed}")
    texts = []
    for _ in range(num_examples):
        text = "".join(training_example(rng))
        for token in ADDED:
            text = text.replace(token, "\n")
        texts.append(text)
    tokenizer.train_from_iterator(texts, trainer)
    for token in ADDED:
        added = AddedToken(token, normalized=False, special=token in (BOS, EOS))
        add = tokenizer.add_special_tokens if added.special else tokenizer.add_tokens
        add([added])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja for transformers 5."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "unk_token": EOS,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def load_tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
