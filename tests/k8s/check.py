"""Checks manifests and Dockerfiles with other people's tools, which `make k8s-check` installs.

    python -m tests.k8s.check

- `kubernetes-validate --strict`: every object, and the pods inside a RayCluster, against the oldest
  and the newest Kubernetes that these manifests are for. An unknown field is an error.
- The types and validators of npm's @kubernetes-models: objects of KEDA, the Prometheus Operator and
  the Gateway API. No package has KubeRay's; `tests/k8s/test_ray.py` knows its fields.
- checkov, each exception with its reason in `exceptions.toml`; one that nothing needs is an error.
- hadolint: the Dockerfiles, if there are any.

Our own rules are tests beside this file.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.k8s.manifests import NO_KUBECTL, OF_VERSION, ROOT, VARIANTS, Manifests, parsed, rendered

TOOLS = ROOT / ".venvs" / "k8s" / "bin"
CRDS = ROOT / ".venvs" / "k8s-crds"
CRDS_SOURCE = Path(__file__).parent / "crds"
EXCEPTIONS = Path(__file__).parent / "exceptions.toml"
KUBERNETES = ("1.30", "1.37")
"""The oldest has the `sleep` of preStop; the newest is the newest that the tool knows."""
CRD_PACKAGES = {
    "gateway.networking.k8s.io/v1": "@kubernetes-models/gateway-api",
    "keda.sh/v1alpha1": "@kubernetes-models/keda",
    "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator",
}
WITHOUT_SCHEMA = {"ray.io/v1"}


class CheckFailed(Exception):
    """Something is wrong with a manifest; the message says what and where."""


def main() -> int:
    for program, remedy in {
        "kubectl": NO_KUBECTL,
        "npm": "npm is not on the PATH; it comes with Node.js 20 or newer (https://nodejs.org)",
    }.items():
        if shutil.which(program) is None:
            print(remedy, file=sys.stderr)
            return 2
    try:
        return run_checks()
    except subprocess.CalledProcessError as exc:
        print(f"kubectl kustomize failed:\n{exc.stderr}", file=sys.stderr)
        return 1


def run_checks() -> int:
    num_failed = 0
    with tempfile.TemporaryDirectory() as folder:
        files = write_rendered(Path(folder))
        for check in (check_kubernetes, check_crds, check_checkov, check_hadolint):
            try:
                print(f"{check.__name__.removeprefix('check_'):11} {check(files)}", flush=True)
            except CheckFailed as exc:
                num_failed += 1
                print(f"{check.__name__.removeprefix('check_'):11} FAILED\n{exc}", flush=True)
    return 1 if num_failed else 0


def write_rendered(folder: Path) -> list[Path]:
    """A file for each variant, the pods of a RayCluster added to its objects."""
    files = []
    for variant in VARIANTS:
        objects = parsed(rendered(variant))
        path = folder / f"{variant}.yaml"
        path.write_text(yaml.safe_dump_all([*objects, *ray_pods(objects)]))
        files.append(path)
    num_objects = sum(len(parsed(rendered(variant))) for variant in VARIANTS)
    print(f"{'rendered':11} {len(files)} variants, {num_objects} objects: {', '.join(VARIANTS)}")
    return files


def ray_pods(objects: tuple[dict[str, Any], ...]) -> Iterator[dict[str, Any]]:
    """As KubeRay makes them, but for what it adds: no tool looks into a RayCluster."""
    for name, template in Manifests("", objects).pods():
        if name.startswith("ray-"):
            metadata = {"name": name, "namespace": "r1-serve"}
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, **template}


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True)


def check_kubernetes(files: list[Path]) -> str:
    num_passed = 0
    for version in KUBERNETES:
        done = run(TOOLS / "kubernetes-validate", "--strict", "-k", version, *files)
        lines = (done.stdout + done.stderr).splitlines()
        num_passed += sum(" passed for resource " in line for line in lines)
        wrong = [line for line in lines if " passed for resource " not in line and line.strip()]
        wrong = [line for line in wrong if not about_crd(line)]
        if wrong or done.returncode not in (0, 1):
            told = "\n".join(wrong).replace(f"{files[0].parent}/", "")
            raise CheckFailed(told or f"exit status {done.returncode}")
    return f"{num_passed} objects valid, strictly, for Kubernetes {' and '.join(KUBERNETES)}"


def about_crd(line: str) -> bool:
    """A warning that there is no schema, where none is expected."""
    found = re.search(r"Couldn't find schema for kind \S+ with api version (\S+)", line)
    return found is not None and found[1] in {*CRD_PACKAGES, *WITHOUT_SCHEMA}


def check_crds(files: list[Path]) -> str:
    install_crds()
    listed: dict[str, dict[str, Any]] = {}
    for path in files:
        for it in yaml.safe_load_all(path.read_text()):
            if package := CRD_PACKAGES.get(it["apiVersion"]):
                label = f"{it['kind']} {it['metadata']['name']} of {path.stem}"
                entry = {"module": f"{package}/{it['apiVersion']}", "label": label, "object": it}
                listed.setdefault(json.dumps(it), entry)
    (CRDS / "objects.json").write_text(json.dumps(list(listed.values())))
    # One line each, so that the compiler's line tells which. Of a literal it knows every field.
    (CRDS / "objects.ts").write_text(
        "".join(
            f'export const o{n}: import("{it["module"]}").I{it["object"]["kind"]} = '
            f"{json.dumps(it['object'])};\n"
            for n, it in enumerate(listed.values())
        )
    )
    options = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022"]
    options += ["--module", "nodenext", "--moduleResolution", "nodenext"]
    typed = run("node_modules/.bin/tsc", *options, "objects.ts", cwd=CRDS)
    validated = run("node", "validate.mjs", cwd=CRDS)
    if typed.returncode or validated.returncode:
        labels = [it["label"] for it in listed.values()]
        told = re.sub(
            r"^objects\.ts\((\d+),\d+\)", lambda m: labels[int(m[1]) - 1], typed.stdout, flags=re.M
        )
        raise CheckFailed(told + validated.stdout + validated.stderr)
    kinds = sorted({it["object"]["kind"] for it in listed.values()})
    return f"{len(listed)} objects valid: {', '.join(kinds)}"


def install_crds() -> None:
    lock = (CRDS_SOURCE / "package-lock.json").read_text()
    stamp = CRDS / "installed.json"
    CRDS.mkdir(parents=True, exist_ok=True)
    for path in CRDS_SOURCE.iterdir():
        shutil.copy(path, CRDS)
    if stamp.exists() and stamp.read_text() == lock:
        return
    done = run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=CRDS)
    if done.returncode:
        raise CheckFailed(f"npm could not install the schemas:\n{done.stderr}")
    stamp.write_text(lock)


def check_checkov(files: list[Path]) -> str:
    options = ["--framework", "kubernetes", "--skip-download", "--quiet", "--output", "json"]
    done = run(TOOLS / "checkov", *options, "--file", *files)
    try:
        report = json.loads(done.stdout)
    except ValueError as exc:
        raise CheckFailed(done.stdout + done.stderr) from exc
    exceptions = tomllib.loads(EXCEPTIONS.read_text())
    unused = {(check, pod) for check, it in exceptions.items() for pod in it["resources"]}
    problems, num_excepted = [], 0
    for failed in report["results"]["failed_checks"]:
        check, resource = failed["check_id"], failed["resource"].removesuffix(OF_VERSION)
        if resource in exceptions.get(check, {}).get("resources", ()):
            unused.discard((check, resource))
            num_excepted += 1
        else:
            problems.append(
                f"{Path(failed['file_path']).stem}: {resource}: {check} {failed['check_name']}"
            )
    problems += [f"exceptions.toml: nothing needs {check} for {pod}" for check, pod in unused]
    if problems or report["summary"]["parsing_errors"]:
        raise CheckFailed("\n".join(problems) or "checkov could not read a file")
    passed = report["summary"]["passed"]
    return f"{passed} checks passed, {num_excepted} excepted by {len(exceptions)} explained rules"


def check_hadolint(files: list[Path]) -> str:
    del files
    dockerfiles = sorted(ROOT.glob("Dockerfile*"))
    done = run(TOOLS / "hadolint", *dockerfiles) if dockerfiles else None
    if done and done.returncode:
        raise CheckFailed(done.stdout + done.stderr)
    return f"{len(dockerfiles)} Dockerfiles: {', '.join(it.name for it in dockerfiles) or 'none'}"


if __name__ == "__main__":
    sys.exit(main())
