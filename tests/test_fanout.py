"""Engines as Ray actors: over the stand-in for vLLM, on Ray itself."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from serve.engine_faults import EngineStartError
from serve.engine_process import free_port
from serve.fanout import joined
from serve.settings import RaySettings
from tests.conftest import ROOT, Program
from tests.stack import (
    Stack,
    chatting,
    command_of,
    num_served,
    running_stack,
    up_arguments,
    wait_until,
)
from tests.support import gone

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
ON_RAY = 'backend = "ray"\n'
QUICK_TO_NOTICE = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "10000",
    "RAY_health_check_failure_threshold": "3",
}
"""A lost node; Ray's own values take some 12 s."""


class Cluster:
    """A cluster that was there before, of nodes that can be killed."""

    def __init__(self, env: dict[str, str]) -> None:
        self.address = f"127.0.0.2:{free_port('127.0.0.2')}"
        self.env = env | {"RAY_AUTH_MODE": "disabled"} | QUICK_TO_NOTICE
        self.nodes: list[psutil.Popen] = []
        self._files = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)

    def add_node(self, ip: str, num_cpus: int) -> psutil.Popen:
        """A raylet; the first has the head's processes with it."""
        port = self.address.rpartition(":")[2]
        client = ["--ray-client-server-port", str(free_port("127.0.0.1"))]
        files = ["--temp-dir", self._files.name, "--include-dashboard", "false"]
        head = ["--head", "--port", port, *client, *files]
        role = ["--address", self.address] if self.nodes else head
        size = ["--num-cpus", str(num_cpus), "--object-store-memory", "83886080"]
        arguments = [*role, *size, "--node-ip-address", ip]
        node = psutil.Popen(
            [*RAY, "start", *arguments, "--block", "--min-worker-port=0", "--max-worker-port=0"],
            env=os.environ | self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.nodes.append(node)
        return node

    def cpus_become(self, wanted: str) -> bool:
        return cpus_become(wanted, self.address, self.env)

    def close(self) -> None:
        for node in reversed(self.nodes):
            if node.poll() is None:
                kill_tree(node)
        self._files.cleanup()


def cpus_become(wanted: str, address: str, env: dict[str, str]) -> bool:
    """Whether `ray status` tells so many ("used/there CPU"), some seconds late."""
    command = [*RAY, "status", "--address", address]

    def told() -> bool:
        done = subprocess.run(
            command, env=os.environ | env, capture_output=True, text=True, timeout=60, check=False
        )
        return f" {wanted}" in done.stdout and " CPU" in done.stdout

    return wait_until(told, 60)


def kill_tree(node: psutil.Popen) -> None:
    """As the loss of a machine: at once, and all that ran on it."""
    processes = [node, *node.children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes)


def descendants(program: Program, words: str) -> list[psutil.Process]:
    """Processes under `program` whose command has `words` in it."""
    found = psutil.Process(program.process.pid).children(recursive=True)
    return [it for it in found if words in command_of(it)]


def engines(stack: Stack) -> list[dict[str, Any]]:
    return list(json.loads(stack.command("status", "--json").stdout))


def states(stack: Stack) -> list[str]:
    return [it["state"] for it in engines(stack)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One engine on a Ray that `up` has started."""
    env = {"PYTHONPATH": str(ROOT / "tests" / "fake_vllm")}
    with running_stack(tmp_path_factory.mktemp("own"), env, 1, ON_RAY) as stack:
        yield stack


def all_serve(urls: list[str]) -> bool:
    """Each gets requests while this waits."""
    enough = {url: num_served(url) + 5 for url in urls}
    return wait_until(lambda: all(num_served(url) >= enough[url] for url in urls), 60)


def test_scaling_under_load_fails_no_request(stack: Stack) -> None:
    """1 → 2 → 1, each an actor with CPUs of its own, which `ray status` shows."""
    (told,) = [line for line in stack.program.log().splitlines() if "ray status" in line]
    token = dict(re.findall(r"(RAY_\w+)=(\S+)", told))
    address = told.rpartition(" ")[2]
    with chatting(stack.url) as outcomes:
        assert cpus_become("1.0/", address, token)
        scaled = stack.command("scale", "2")
        assert scaled.stdout.count("ready") == 2, scaled.stderr
        assert cpus_become("2.0/", address, token)
        assert all_serve([it["url"] for it in engines(stack)])
        assert stack.command("scale", "1").returncode == 0
        assert states(stack) == ["ready"]
        assert all_serve([it["url"] for it in engines(stack)])
    assert set(outcomes) == {"ok"}, [it for it in outcomes if it != "ok"][:3]
    assert cpus_become("1.0/", address, token)


@pytest.mark.parametrize(
    ("victim", "moves"), [("vllm.entrypoints", False), ("ray::EngineActor", True)]
)
def test_what_is_killed_comes_back(stack: Stack, victim: str, moves: bool) -> None:
    """`kill -9` of an engine or of its actor under load: no chat fails, the other goes on. What an
    actor runs is at another address then."""
    assert stack.command("scale", "2").returncode == 0
    urls = {it["url"] for it in engines(stack)}
    processes = descendants(stack.program, victim)

    def is_back() -> bool:
        found = engines(stack)
        replaced = set(descendants(stack.program, victim)) - set(processes)
        all_ready = [it["state"] for it in found] == ["ready", "ready"]
        return bool(replaced) and all_ready and ({it["url"] for it in found} != urls) == moves

    with chatting(stack.url) as outcomes:
        assert all_serve(list(urls))
        processes[0].kill()
        assert wait_until(is_back, 90)
        assert all_serve([it["url"] for it in engines(stack)])
    assert set(outcomes) == {"ok"}, [it for it in outcomes if it != "ok"][:3]
    assert len(descendants(stack.program, victim)) == len(processes)


def test_a_signal_to_the_whole_group_drains_and_leaves_nothing(stack: Stack) -> None:
    """As Ctrl-C or a service manager sends it; Ray, which `up` started, ends with it."""
    processes = descendants(stack.program, "")
    assert any("gcs_server" in command_of(it) for it in processes)
    assert stack.program.stop() == 0
    assert wait_until(lambda: gone(processes), 10)


def test_a_lost_node_s_engine_moves(tmp_path: Path, fake_vllm_env: dict[str, str]) -> None:
    """A second node takes an engine; when it is lost, a third gets it. The cluster was there before
    and stays."""
    cluster = Cluster(fake_vllm_env)
    try:
        cluster.add_node("127.0.0.2", 1)
        assert cluster.cpus_become("0.0/1.0 CPU")
        second = cluster.add_node("127.0.0.3", 1)
        assert cluster.cpus_become("0.0/2.0 CPU")
        joined = f'{ON_RAY}[ray]\naddress = "{cluster.address}"\n'
        with running_stack(tmp_path, cluster.env, 2, joined) as stack:
            assert {it["place"] for it in engines(stack)} == {"127.0.0.2", "127.0.0.3"}
            cluster.add_node("127.0.0.4", 1)
            with chatting(stack.url) as outcomes:
                assert all_serve([it["url"] for it in engines(stack)])
                kill_tree(second)

                def has_moved() -> bool:
                    places = {it["place"] for it in engines(stack) if it["state"] == "ready"}
                    return places == {"127.0.0.2", "127.0.0.4"}

                assert wait_until(has_moved, 90)
                assert all_serve([it["url"] for it in engines(stack)])
            assert set(outcomes) == {"ok"}, [it for it in outcomes if it != "ok"][:3]
            assert stack.program.stop() == 0
        assert cluster.cpus_become("0.0/2.0 CPU")
    finally:
        cluster.close()


def test_load_alone_adds_and_ends_an_engine(tmp_path: Path, fake_vllm_env: dict[str, str]) -> None:
    """Two while there is much to do, one again afterwards. `kill -9` of `up` ends Ray as well."""
    autoscale = (
        "[autoscale]\nmax_replicas = 2\ntarget_requests_per_replica = 2\nscale_down_delay_s = 1\n"
    )
    with running_stack(tmp_path, fake_vllm_env, 1, ON_RAY + autoscale) as stack:
        with chatting(stack.url) as outcomes:
            assert wait_until(lambda: states(stack) == ["ready", "ready"], 60)
            assert all_serve([it["url"] for it in engines(stack)])
        with chatting(stack.url, num_clients=1) as few:
            assert wait_until(lambda: states(stack) == ["ready"], 60)
        assert set(outcomes + few) == {"ok"}, [it for it in outcomes + few if it != "ok"][:3]
        processes = descendants(stack.program, "")
        stack.program.process.kill()
        assert wait_until(lambda: gone(processes), 30)


def test_room_that_is_not_there_is_told(tmp_path: Path, fake_vllm_env: dict[str, str]) -> None:
    """What an engine needs and what the cluster has, and status 1."""
    (tmp_path / "config.json").touch()
    config = tmp_path / "t.toml"
    engine = f'[engine]\nmodel = "{tmp_path}"\nstartup_timeout_s = 1\nlog_dir = "logs"\n'
    config.write_text(engine + ON_RAY + "[ray]\nnum_cpus_per_replica = 1000\n")
    program = Program("up", *up_arguments(config), env=fake_vllm_env)
    try:
        program.wait_for("needs 1000 CPU, the cluster has", 60)
        assert program.process.wait(30) == 1
    finally:
        program.close()


def test_a_cluster_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once; Ray itself would try for minutes."""
    monkeypatch.setattr("serve.fanout.CONNECT_TIMEOUT_S", 0.2)
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    with (
        pytest.raises(EngineStartError, match=f"No Ray cluster at `{address}`: .* refused"),
        joined(RaySettings(), address, None),
    ):
        pass
