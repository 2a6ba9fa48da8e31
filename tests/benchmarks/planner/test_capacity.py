"""Tests of the planner's arithmetic: cards, model shapes, what fits, step times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.planner.capacity import (
    GPU_MEMORY_UTILIZATION,
    kv_tokens,
    limits_of,
    markdown_table,
    tokens_per_s_bound,
)
from benchmarks.planner.hardware import GPUS, find_gpu
from benchmarks.planner.model_shape import R1_DISTILL_QWEN_1_5B, ShapeError, read_shape
from benchmarks.planner.step_times import StepTimes, roofline
from serve.settings import config_dir, load_settings

SHAPE = R1_DISTILL_QWEN_1_5B
L4 = find_gpu("L4")
H100 = find_gpu("H100")


def test_the_1_5b_has_the_sizes_of_its_model_card():
    assert SHAPE.num_parameters == pytest.approx(1.777e9, rel=0.001)
    assert SHAPE.weights_bytes == pytest.approx(3.55e9, rel=0.002)
    assert SHAPE.kv_bytes("auto") == 28 * 1024
    assert SHAPE.kv_bytes("fp8") == 14 * 1024


@pytest.mark.parametrize("name", ["rtx4090", "RTX 4090", "rtx-4090"])
def test_cards_are_found_however_their_name_is_written(name: str):
    assert find_gpu(name).name == "RTX 4090"


def test_an_unknown_card_is_none():
    assert find_gpu("L5") is None


def test_as_much_of_a_card_is_used_as_the_shipped_profile_does():
    engine = load_settings(config_dir() / "gpu.toml").engine
    assert engine.gpu_memory_utilization == GPU_MEMORY_UTILIZATION


def test_kv_takes_what_weights_and_working_memory_leave():
    assert kv_tokens(L4, SHAPE, utilization=0.92) == pytest.approx(593_000, rel=0.01)
    assert kv_tokens(L4, SHAPE, "fp8") == pytest.approx(2 * kv_tokens(L4, SHAPE), abs=2)
    assert kv_tokens(L4, SHAPE, max_num_seqs=20_000) == 0
    assert kv_tokens(L4, SHAPE, utilization=0.5) < kv_tokens(L4, SHAPE)


def test_limits_are_vllms_defaults_unless_asked():
    assert limits_of(L4, SHAPE).max_num_seqs == 256
    assert limits_of(H100, SHAPE).max_num_batched_tokens == 8192
    assert limits_of(find_gpu("A100 80GB"), SHAPE).max_num_seqs == 256
    asked = limits_of(L4, SHAPE, max_num_seqs=4000)
    assert (asked.max_num_seqs, asked.max_num_batched_tokens) == (4000, 4000)


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
@given(num_seqs=st.integers(1, 1000), context=st.integers(1, 32768))
def test_no_step_is_faster_than_the_bound(gpu, num_seqs: int, context: int):
    bound = tokens_per_s_bound(gpu, SHAPE, "auto", num_seqs, context)
    step_s = roofline(gpu, SHAPE).step_s(num_seqs, num_seqs * context, 0)
    # The bound counts attention's arithmetic, step times leave it out: it hides behind the reading.
    assert num_seqs / step_s < bound


def test_a_model_directory_is_read(tmp_path: Path):
    config = {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "num_hidden_layers": 28,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "model_type": "qwen2",
        "max_position_embeddings": 131072,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = read_shape(tmp_path)
    assert shape.num_parameters == SHAPE.num_parameters
    (tmp_path / "model.safetensors").write_bytes(b"0" * 1000)
    assert read_shape(tmp_path).weights_bytes == 1000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "can't be read"),
        ("{", "not the config.json"),
        ('{"hidden_size": 8}', "missing required field"),
        (
            '{"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, '
            '"num_hidden_layers": 1, "vocab_size": 8, "num_experts": 4}',
            "only dense decoders",
        ),
    ],
)
def test_a_directory_that_is_no_dense_model_is_refused(tmp_path: Path, text, words: str):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ShapeError, match=words):
        read_shape(tmp_path)


def test_the_demo_models_size_is_that_of_its_file():
    weights = Path(__file__).parents[3] / "demo_model" / "weights"
    shape = read_shape(weights)
    assert shape.weights_bytes == (weights / "model.safetensors").stat().st_size
    assert shape.weights_bytes == pytest.approx(2 * shape.num_parameters, rel=0.01)


STEP_TIMES = st.builds(
    StepTimes,
    by_running=st.sampled_from([((1, 0.002),), ((1, 0.002), (8, 0.01)), ((0, 0.0), (4, 0.1))]),
    weights_s=st.floats(0, 0.02),
    kv_token_s=st.sampled_from([0.0, 1e-7, 1e-5]),
    token_s=st.floats(0, 1e-3),
    overlapped=st.booleans(),
)


@given(STEP_TIMES, st.integers(1, 300), st.integers(0, 50_000), st.integers(0, 200))
def test_the_time_of_many_steps_is_the_sum_of_theirs(times, running, kv_tokens_, num_steps):
    each = (times.step_s(running, kv_tokens_ + i * running, 0) for i in range(num_steps))
    assert times.decode_s(running, kv_tokens_, num_steps) == pytest.approx(sum(each))


def test_the_table_in_the_docs_is_what_the_arithmetic_gives():
    docs = (Path(__file__).parents[3] / "docs" / "capacity.md").read_text()
    assert markdown_table() in docs
