from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from serve.settings import (
    AutoscaleSettings,
    BrownoutSettings,
    EngineSettings,
    RaySettings,
    RouterSettings,
    ServerSettings,
    Settings,
    SettingsError,
    TelemetrySettings,
    config_dir,
    load_settings,
)

DOCS = Path(__file__).parent.parent / "docs" / "configuration.md"
TABLES = {
    "server": ServerSettings,
    "router": RouterSettings,
    "brownout": BrownoutSettings,
    "engine": EngineSettings,
    "autoscale": AutoscaleSettings,
    "ray": RaySettings,
    "telemetry": TelemetrySettings,
}


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "t.toml"
    path.write_text(text)
    return load_settings(path)


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_shipped_profiles_load(profile: str) -> None:
    """Each profile in configs/ is valid."""
    settings = load_settings(config_dir() / f"{profile}.toml")
    assert settings.engine.reasoning_parser == "deepseek_r1"
    assert settings.engine.scheduling_policy == "priority"


def test_gpu_profile_serves_the_15b_with_its_full_budget() -> None:
    """The model's makers evaluate with 32,768 tokens."""
    engine = load_settings(config_dir() / "gpu.toml").engine
    assert engine.model == "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    assert engine.max_model_len == 32768
    assert engine.dtype == "bfloat16"
    assert engine.enable_prefix_caching


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[engine]\nmax_model_length = 1\n",
            "`engine.max_model_length`; did you mean `max_model_l",
        ),
        ("[sever]\nport = 1\n", "unknown field `sever`; did you mean `server`?"),
        ("[server]\nport = 'x'\n", "`server.port`: expected `int`"),
        ("[server]\nport = 70000\n", "`server.port`: expected `int` <= 65535"),
        ("[engine]\nfrontend = 'go'\n", "`engine.frontend`"),
        ("[engine]\ngpu_memory_utilization = 1.5\n", "`engine.gpu_memory_utilization`"),
        ("[router]\nreasoning_fields = []\n", "`router.reasoning_fields`"),
        ("[brownout]\nstart = 1.5\n", "`brownout`: `start` must be below `full`, got 1.5 and 1.2"),
        ("[ray]\naddress = 'ray://h:1'\n", '`address` must be "auto" or "host:port"'),
        (
            "[ray]\nnum_gpus_per_replica = 0.5\n",
            "`engine.gpu_memory_utilization` = 0.92 is more of a card than "
            "`ray.num_gpus_per_replica` = 0.5 gives",
        ),
        (
            "[ray]\nnum_gpus_per_replica = 1\n[engine]\ntensor_parallel_size = 2\n",
            "`ray.num_gpus_per_replica` = 1 is less than `engine.tensor_parallel_size` = 2",
        ),
        (
            "[telemetry]\notlp_endpoint = 'collector:4318'\n",
            'receiver, such as "http://collector:4318", got "collector:4318"',
        ),
        ("[telemetry]\ntrace_ratio = 2\n", "`telemetry.trace_ratio`: expected `float` <= 1.0"),
        ("[server\n", "not valid TOML"),
    ],
)
def test_mistakes_name_the_file_the_key_and_the_remedy(
    tmp_path: Path, text: str, message: str
) -> None:
    """A wrong file fails at start, in a sentence that says where."""
    with pytest.raises(SettingsError) as failure:
        load(tmp_path, text)
    assert message in str(failure.value)
    assert str(failure.value).startswith(str(tmp_path / "t.toml"))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """The path is in the message."""
    with pytest.raises(SettingsError, match=r"none\.toml: No such file"):
        load_settings(tmp_path / "none.toml")


def test_relative_paths_are_meant_beside_the_file(tmp_path: Path) -> None:
    """A model is a path only where it begins with a dot; `org/name` is a repository."""
    text = '[engine]\nmodel = "../m"\nlog_dir = "logs"\n[router]\npresets = "p.toml"\n'
    text += '[server]\nkeys_file = "k.toml"\n'
    settings = load(tmp_path, text)
    assert settings.engine.model == str(tmp_path.parent / "m")
    assert settings.engine.log_dir == str(tmp_path / "logs")
    assert settings.server.keys_file == str(tmp_path / "k.toml")
    assert settings.router.presets == str(tmp_path / "p.toml")
    assert load(tmp_path, '[engine]\nmodel = "org/name"\n').engine.model == "org/name"


def test_a_file_may_change_a_shipped_profile_only_a_little(tmp_path: Path) -> None:
    """Key by key; `auto` is the profile of the vLLM that is installed; paths stay those of the file
    that they are in."""
    path = tmp_path / "t.toml"
    path.write_text('base = "auto"\n[engine]\nmax_num_seqs = 7\nlog_dir = "logs"\n')
    for device in ("cpu", "gpu"):
        shipped = load_settings(config_dir() / f"{device}.toml")
        changes = {"max_num_seqs": 7, "log_dir": str(tmp_path / "logs")}
        expected = msgspec.structs.replace(
            shipped, base="auto", engine=msgspec.structs.replace(shipped.engine, **changes)
        )
        assert load_settings(path, device) == expected
    with pytest.raises(SettingsError, match=r"t\.toml: `base`: .*'tpu'"):
        load(tmp_path, 'base = "tpu"\n')
    with pytest.raises(SettingsError, match=r"t\.toml: `engine`: expected `object`"):
        load(tmp_path, 'base = "cpu"\nengine = 1\n')


def test_no_file_means_the_defaults() -> None:
    """Every setting has a default."""
    assert load_settings(None) == Settings()


@pytest.mark.parametrize("table", TABLES)
def test_every_key_is_documented_with_its_default(table: str) -> None:
    """docs/configuration.md lists exactly the keys that exist, and their defaults."""
    section = DOCS.read_text().split(f"## `[{table}]`")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section, flags=re.MULTILINE))
    defaults = msgspec.to_builtins(TABLES[table]())
    assert list(rows) == list(defaults)
    for key, shown in rows.items():
        default = defaults[key]
        assert shown == ("none" if default is None else f"`{as_toml(default)}`"), key


def as_toml(value: object) -> str:
    """A value as it is written in TOML; for these types JSON is the same but for spaces."""
    return msgspec.json.encode(value).decode().replace(",", ", ")
