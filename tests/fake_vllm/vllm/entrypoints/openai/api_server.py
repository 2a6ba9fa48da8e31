"""A stand-in for vLLM's server program: its command line, log words and process tree, no model.

It imitates what the launcher relies on: it logs its phases, starts a core process in its own
process group that outlives a killed server, answers as `benchmarks.stand_in` does, and ends its
core and itself on SIGTERM. `FAKE_VLLM` makes it misbehave: `die` prints the file `FAKE_VLLM_LOG`
and fails, `silent` never opens its port, `stubborn` ignores SIGTERM. `FAKE_VLLM_OPTIONS` are the
stand-in's.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CORE = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port")
    parser.add_argument("--served-model-name")
    options, _ = parser.parse_known_args()
    behaviour = os.environ.get("FAKE_VLLM", "serve")
    print("(APIServer pid=1) INFO 11-22 14:48:55 [api_utils.py:286] non-default args: {}")
    if behaviour == "die":
        print(Path(os.environ["FAKE_VLLM_LOG"]).read_text())
        sys.exit(1)
    if behaviour == "stubborn":  # before there is a core, whose coming tests wait for
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    core = subprocess.Popen([sys.executable, "-c", CORE])
    print("(EngineCore pid=2) INFO 11-22 14:49:12 [core.py:133] Initializing a V1 LLM engine")
    print(
        "(Worker pid=2) INFO 11-22 14:49:20 [cpu_model_runner.py:68] Starting to load model /m..."
    )
    sys.stderr.write("Loading safetensors: 0%\rLoading safetensors: 100%\n")
    try:
        serve(behaviour, options)
    finally:
        core.kill()
        core.wait()


def serve(behaviour: str, options: argparse.Namespace) -> None:
    if behaviour == "silent":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if behaviour in ("silent", "stubborn"):
        time.sleep(600)
    from benchmarks import stand_in

    print("(APIServer pid=1) INFO 11-22 14:49:25 [entry.py:140] Starting vLLM server on http://x")
    where = ["--host", options.host, "--port", options.port]
    more = os.environ.get("FAKE_VLLM_OPTIONS", "--step-ms 1").split()
    stand_in.main([*where, "--model", options.served_model_name, *more])


if __name__ == "__main__":
    main()
