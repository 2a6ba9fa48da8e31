"""The sizes of a dense decoder that decide what it costs to serve: its weights, its KV, its FLOPs.

`read_shape` takes them from the `config.json` of a model directory in Hugging Face's form (Llama,
Qwen2, Mistral and what is built alike).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

KvDtype = Literal["auto", "fp8"]
_WEIGHT_BYTES = 2
_KV_BYTES: dict[KvDtype, int] = {"auto": 2, "fp8": 1}


class ShapeError(ValueError):
    """A model directory that can't be read; the message says why."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    name: str
    num_layers: int
    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab: int
    tied_embeddings: bool = False
    attention_bias: bool = True
    """Of the query, key and value projections, as in Qwen2."""
    max_context: int = 131072
    measured_weights_bytes: int | None = None
    """The size of the weights' files; None: two bytes a parameter."""

    @property
    def num_parameters(self) -> int:
        query, key_value = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        bias = (query + 2 * key_value) if self.attention_bias else 0
        attention = self.hidden * (2 * query + 2 * key_value) + bias
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        tables = 1 if self.tied_embeddings else 2
        return self.num_layers * layer + tables * self._table + self.hidden

    @property
    def _table(self) -> int:
        return self.vocab * self.hidden

    @property
    def weights_bytes(self) -> int:
        return self.measured_weights_bytes or _WEIGHT_BYTES * self.num_parameters

    @property
    def read_bytes(self) -> int:
        """What a step reads of the weights: of the input's embeddings only some rows."""
        if self.tied_embeddings:
            return self.weights_bytes
        return self.weights_bytes - self.weights_bytes * self._table // self.num_parameters

    def kv_bytes(self, dtype: KvDtype) -> int:
        """Of one token."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * _KV_BYTES[dtype]

    def flops(self, context_tokens: float = 0) -> float:
        """Of one token: two for each parameter that it meets, and attention to its context."""
        met = self.num_parameters - (0 if self.tied_embeddings else self._table)
        attention = 4 * self.num_layers * self.num_heads * self.head_dim * context_tokens
        return 2 * met + attention


R1_DISTILL_QWEN_1_5B = ModelShape(
    name="DeepSeek-R1-Distill-Qwen-1.5B",
    num_layers=28,
    hidden=1536,
    intermediate=8960,
    num_heads=12,
    num_kv_heads=2,
    head_dim=128,
    vocab=151936,
)


class _Config(msgspec.Struct):
    """What is needed of a `config.json`."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_hidden_layers: int
    vocab_size: int
    model_type: str = ""
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool | None = None
    max_position_embeddings: int = 4096
    num_experts: int | None = None
    num_local_experts: int | None = None
    kv_lora_rank: int | None = None


def read_shape(directory: Path) -> ModelShape:
    """Raises `ShapeError`."""
    path = directory / "config.json"
    try:
        config = msgspec.json.decode(path.read_bytes(), type=_Config)
    except OSError as error:
        raise ShapeError(f"{path} can't be read ({error.strerror})") from error
    except msgspec.DecodeError as error:
        raise ShapeError(f"{path} is not the config.json of a dense decoder: {error}") from error
    if config.num_experts or config.num_local_experts or config.kv_lora_rank:
        raise ShapeError(
            f"{path} describes experts or latent attention; only dense decoders can be planned"
        )
    bias = config.attention_bias
    return ModelShape(
        name=directory.resolve().name,
        num_layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_dim=config.head_dim or config.hidden_size // config.num_attention_heads,
        vocab=config.vocab_size,
        tied_embeddings=config.tie_word_embeddings,
        attention_bias=config.model_type == "qwen2" if bias is None else bias,
        max_context=config.max_position_embeddings,
        measured_weights_bytes=_files_bytes(directory) or None,
    )


def _files_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
