"""A Ray cluster of this machine alone, for as long as one `r1-serve up` runs.

Its processes lead a session of their own, tied to this one (`serve.tether`): a signal to the whole
group of `up` (Ctrl-C, `timeout`, a service manager) would end Ray before the engines have drained.
Ray listens on every address, so who connects needs a token, which only this user can read.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from serve.console import Console
from serve.engine_faults import EngineStartError, Fault
from serve.fleet import MakeKeeper
from serve.settings import Settings, SettingsError
from serve.tether import tethered

NODE_IP = "127.0.0.2"
"""Ray replaces 127.0.0.1 by an address that others can reach."""
OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""Ray's least: nothing is put there."""
START_S = 120.0
STOP_S = 10.0


@contextlib.contextmanager
def made_on_ray(
    settings: Settings, console: Console, directory: Path, log_dir: Path
) -> Iterator[MakeKeeper]:
    """What makes the engines on the cluster that the settings name, or on one of our own. Raises
    `SettingsError` and `EngineStartError`."""
    if importlib.util.find_spec("ray") is None:
        raise SettingsError(
            '`engine.backend` = "ray" needs Ray, which is not installed: '
            '`make install` or `pip install "r1-serve[ray]"`'
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with contextlib.ExitStack() as stack:
        address, node_ip = settings.ray.address, None
        if address is None:
            console.line("Starting Ray on this machine.")
            address = stack.enter_context(own_cluster(directory, log_dir / "ray.log"))
            node_ip = NODE_IP
            token = f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={os.environ['RAY_AUTH_TOKEN_PATH']}"
            console.line(f"See it with: {token} ray status --address {address}")
        else:
            console.line(f"Joining the Ray cluster at `{address}`.")
        from serve import fanout  # imports Ray, which reads the environment then

        yield stack.enter_context(fanout.joined(settings.ray, address, node_ip))


@contextlib.contextmanager
def own_cluster(directory: Path, log_path: Path) -> Iterator[str]:
    """Its address; it ends when left, or when this process does. Its files are in `directory`, the
    token too, which the environment of this process names from now on. Raises `EngineStartError`.
    """
    token = directory / "ray-token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    with (
        log_path.open("w") as log,
        subprocess.Popen(
            tethered(sys.executable, "-m", "serve.ray_head", str(directory)),
            stdin=subprocess.PIPE,  # held open until this process ends: the tether
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        ) as head,
    ):
        try:
            told = head.stdout and select.select([head.stdout], [], [], START_S)[0]
            address = told[0].readline().strip() if told else ""
            if not address:
                raise EngineStartError(_fault(log_path), str(log_path))
            yield address
        finally:
            head.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                head.wait(STOP_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)


def _fault(log_path: Path) -> Fault:
    last = [line for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
    return Fault(f"Ray did not start: {last[-1] if last else 'it says nothing'}")


def main(directory: str) -> None:
    import ray

    ray.init(
        address="local",
        _node_ip_address=NODE_IP,
        _temp_dir=directory,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
    )
    print(ray.get_runtime_context().gcs_address, flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1])
