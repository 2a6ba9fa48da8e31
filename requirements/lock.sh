#!/usr/bin/env bash
# Resolves every list in this folder from pyproject.toml; needs only package metadata, no GPU and no
# big download. Existing pins stay unless asked: `make lock UPGRADE=1`.
#
# The lists agree with each other: what runs beside vLLM is pinned as vLLM's resolution pins it.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=${UV:-uv}
compile() {
  "$uv" pip compile --quiet --universal --python-version 3.11 --no-annotate \
    --custom-compile-command "make lock" ${UPGRADE:+--upgrade} "$@"
}

cd requirements
compile ../pyproject.toml cpu.in --extra cpu --extra chat --override cpu.overrides -o cpu.txt
compile ../pyproject.toml -c cpu.txt -o router.txt
compile ../pyproject.toml --extra ray -c cpu.txt -o ray.txt
compile ../pyproject.toml --extra dev --extra chat --extra bench --extra gym --extra answers --extra otel \
  -c cpu.txt -c ray.txt --override gpu.overrides --override dev.overrides -o dev.txt
compile ../pyproject.toml --extra gpu --extra chat -c dev.txt --override gpu.overrides -o gpu.txt
compile build.in -c dev.txt -o build.txt
compile ../pyproject.toml --extra otel -c cpu.txt -o image.txt
compile k8s.in -o k8s.txt
compile docs.in -o docs.txt
wc -l ./*.txt
