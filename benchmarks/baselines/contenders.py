"""What is compared, and how each is started: one engine for all but the guides, and what stands
before it.

The routers are started as in the router benchmark (`benchmarks.peers`): one engine, one worker,
loopback, quiet, their defaults otherwise. Everything runs from the beginning to the end and takes
turns; what has nothing to do takes no CPU.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.baselines import guides_app, shape
from benchmarks.baselines.drive import Drive, Question, drive_chats, drive_gradio, until_answered
from benchmarks.baselines.environment import guides_python
from benchmarks.loadtest.client import Endpoint
from benchmarks.peers import CONTENDERS, InstallError, Launch, install
from benchmarks.processes import Child, NotReadyError, free_port

GUIDES, VLLM, OURS = "guides", "vllm", "r1-serve"
NAMES = {
    GUIDES: "transformers generate() behind Gradio, one at a time",
    VLLM: "plain vLLM",
    "litellm": "vLLM + LiteLLM",
    "vllm-router": "vLLM + vllm-router",
    OURS: "vLLM + r1-serve's router",
}


@dataclass(frozen=True, slots=True)
class Model:
    """A model to serve, and how much of it is asked for in a round."""

    name: str
    folder: Callable[[Path], Path]  # given a folder for what must be made
    engine: Sequence[str]  # lines of the settings' [engine]
    mean_tokens: int
    num_questions: int
    num_for_guides: int
    contenders: str


MODELS = {
    "demo": Model(
        "r1-demo",
        lambda cache: shape.DEMO,
        (
            'dtype = "auto"',
            "max_model_len = 4096",
            "max_num_seqs = 64",
            "cpu_kv_cache_gib = 1",
            "cpu_threads = 1",
        ),
        mean_tokens=128,
        num_questions=384,
        num_for_guides=16,
        contenders=",".join(NAMES),
    ),
    "1.5b": Model(
        shape.NAME,
        lambda cache: shape.make(cache / shape.NAME),
        (
            'dtype = "bfloat16"',
            'load_format = "dummy"',
            "max_model_len = 2048",
            "max_num_seqs = 16",
            "cpu_kv_cache_gib = 1",
            "cpu_threads = 2",
        ),
        mean_tokens=40,
        num_questions=48,
        num_for_guides=16,
        contenders=f"{GUIDES},{VLLM},{OURS}",
    ),
}


def merged(lines: Sequence[str], changes: Sequence[str]) -> list[str]:
    """Lines of settings with others in place of those of the same key; `key =` takes one out."""
    settings = {line.partition("=")[0].strip(): line for line in (*lines, *changes)}
    return [line for line in settings.values() if line.partition("=")[2].strip()]


@dataclass(frozen=True, slots=True)
class Up:
    """A contender that is up. `router` is the process between the client and the engine, if any."""

    name: str
    drive: Callable[[Sequence[Question]], Drive]
    router: Child | None = None


class Stack:
    """Everything that is running, until the exit stack ends."""

    def __init__(self, model: Model, cache: Path, concurrency: int, stack: ExitStack) -> None:
        self._model = model
        self._folder = model.folder(cache)
        self._concurrency = concurrency
        self._stack = stack
        self._scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="baselines")))
        self.children: list[Child] = []
        self.engine_url = ""

    def start_all(self, names: Sequence[str], engine: Sequence[str]) -> list[Up]:
        """Those of `names` that could be started; a line says why the others could not. `engine`
        are further lines of the engine's settings."""
        if set(names) - {GUIDES}:
            self._start_engine(engine)
        started = []
        for name in names:
            print(f"starting {NAMES[name]}", flush=True)
            try:
                up = self._start(name)
                until_answered(up.drive)
            except (InstallError, NotReadyError, RuntimeError) as error:
                print(f"{name} is left out: {error}", flush=True)
                continue
            started.append(up)
        return started

    def _start(self, name: str) -> Up:
        if name == GUIDES:
            return self._start_guides()
        if name == VLLM:
            return Up(name, self._chats(self.engine_url))
        contender = CONTENDERS[name]
        port = free_port()
        at = Launch(self.engine_url, self._model.name, port, install(contender), self._scratch)
        argv = contender.argv(at) if contender.argv else []
        child = self._child(name, argv, contender.env)
        child.wait_ready(at.url + contender.ready, timeout_s=120)
        return Up(name, self._chats(at.url), child)

    def _chats(self, url: str) -> Callable[[Sequence[Question]], Drive]:
        endpoint = Endpoint(url, self._model.name)
        return partial(drive_chats, endpoint, concurrency=self._concurrency)

    def _start_engine(self, lines: Sequence[str]) -> None:
        config = self._scratch / "engine.toml"
        lines = merged(self._model.engine, lines)
        head = ["[engine]", f'model = "{self._folder}"', f'served_name = "{self._model.name}"']
        config.write_text("\n".join([*head, *lines]) + "\n")
        port = free_port()
        print(f"starting vLLM with {'; '.join(lines)}", flush=True)
        argv = [sys.executable, "-m", "serve", "engine", "--config", str(config)]
        engine = self._child("engine", [*argv, "--port", str(port)], {})
        self.engine_url = f"http://127.0.0.1:{port}"
        engine.wait_ready(self.engine_url + "/health", timeout_s=400)

    def _start_guides(self) -> Up:
        port = free_port()
        script = Path(guides_app.__file__)
        argv = [str(guides_python()), str(script), "--model", str(self._folder)]
        env = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
        child = self._child(GUIDES, [*argv, "--port", str(port)], env)
        url = f"http://127.0.0.1:{port}"
        child.wait_ready(url + "/config", timeout_s=200)
        return Up(GUIDES, partial(drive_gradio, url, concurrency=self._concurrency))

    def _child(self, name: str, argv: Sequence[str], env: dict[str, str]) -> Child:
        child = Child(argv, self._scratch / f"{name}.log", env)
        self._stack.callback(child.stop, 10.0)
        self.children.append(child)
        return child
