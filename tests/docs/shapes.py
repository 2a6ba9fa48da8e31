"""What pages show, against what there is: output, replies, settings, manifests, queries. Each
function gives what is wrong, or None."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.loadtest.workload import load_workload
from serve.keys import check_keys_data
from serve.presets import load_presets
from serve.record import Record
from serve.settings import SettingsError, load_settings
from serve.strict import StrictError, convert
from tests.k8s.manifests import overlay_of
from tests.monitoring.support import ALERTS, Exported, Query, problems, promtool

LEFT_OUT = "…"
OF_THE_CHART = {"podMonitorSelectorNilUsesHelmValues", "ruleSelectorNilUsesHelmValues"}
"""Values of kube-prometheus-stack, by its values.yaml."""


# --- output -------------------------------------------------------------------------------------


def unlike(shown: str, told: str) -> str | None:
    """Every line that is shown is told, in this order; numbers, sizes and white space may differ,
    and `…` stands for anything."""
    rest = [_plain(line) for line in re.split(r"[\r\n]+", told)]
    for line in filter(str.strip, shown.splitlines()):
        if line.strip() == LEFT_OUT:
            continue
        pattern = ".*".join(map(re.escape, _plain(line).split(LEFT_OUT)))
        at = next((n for n, it in enumerate(rest) if re.fullmatch(pattern, it)), None)
        if at is None:
            return f"nothing says {line.strip()!r}; said is:\n{told.strip()[-1500:]}"
        rest = rest[at + 1 :]
    return None


def _plain(line: str) -> str:
    line = re.sub(r"[━╸╺]+", "━", line)
    line = re.sub(r"\b[0-9a-f]{8,}\b", "#", line)
    line = re.sub(r"\d+(?:[.,:]\d+)*", "#", line)
    return re.sub(r"\s+", " ", re.sub(r"(# ?)[kKMG]?i?B", r"\1B", line)).strip()


# --- replies ------------------------------------------------------------------------------------


def read_json(text: str) -> Any:
    """An object, or one a line. Raises `ValueError`."""
    try:
        return json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def in_output(output: str) -> list[Any]:
    """The JSON in it: the whole, else its lines that are such, and the data of its events."""
    try:
        return [json.loads(output)]
    except ValueError:
        found = []
    for line in output.splitlines():
        try:
            found.append(json.loads(line.removeprefix("data: ")))
        except ValueError:
            continue
    return found


def not_in(shown: Any, replies: Iterable[Any]) -> str | None:
    """What the first of the replies lacks, unless one has all."""
    complaints = [lacks(shown, it) for it in replies]
    if not complaints:
        return "no reply comes before it"
    return None if None in complaints else complaints[0]


def lacks(shown: Any, real: Any, where: str = "") -> str | None:
    """Keys and types; of a list, each that is shown is like one that is there. An error is the same
    word for word."""
    if isinstance(shown, dict):
        if not isinstance(real, dict):
            return f"{where or 'the reply'} is {real!r}"
        for key, value in shown.items():
            if key not in real:
                return f"the reply has no {where}{key}"
            if key == "error" and value is not None and value != real[key]:
                return f"the error is {real[key]}"
            if complaint := lacks(value, real[key], f"{where}{key}."):
                return complaint
        return None
    if isinstance(shown, list):
        if not isinstance(real, list):
            return f"{where} is {real!r}"
        for value in shown:
            found = [lacks(value, it, f"{where.rstrip('.')}[].") for it in real]
            if None not in found:
                return found[0] if found else f"{where} is empty"
        return None
    kinds = [bool if isinstance(it, bool) else type(it) for it in (shown, real)]
    same = None in (shown, real) or kinds[0] == kinds[1] or set(kinds) == {int, float}
    return None if same else f"{where.rstrip('.')} is {real!r}"


def refused_record(data: dict[str, Any]) -> str | None:
    """A line of the access log."""
    try:
        convert(data, Record)
    except StrictError as exc:
        return str(exc)
    return None


# --- settings -----------------------------------------------------------------------------------


def refused_settings(text: str) -> str | None:
    """TOML of r1-serve: settings, keys, presets or a workload of `bench`, by its tables."""
    try:
        data = tomllib.loads(text)
        with tempfile.TemporaryDirectory() as name:
            path = Path(name, "page.toml")
            path.write_text(text)
            if "keys" in data:
                whole = text.replace(LEFT_OUT, "0" * 60)  # a hash of 64 digits, cut short
                check_keys_data(tomllib.loads(whole), path)
            elif "presets" in data:
                load_presets(path)
            elif "tenants" in data:
                Path(name, "questions.jsonl").write_text('{"prompt": "1+1", "answer": "2"}\n')
                load_workload(str(path))
            else:
                load_settings(path, "cpu")
    except (tomllib.TOMLDecodeError, SettingsError) as exc:
        return str(exc)
    return None


# --- manifests ----------------------------------------------------------------------------------


def refused_manifest(text: str) -> str | None:
    """YAML: of a kustomization, of Prometheus, or values of its chart."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        return str(exc)
    if not isinstance(data, dict):
        return "is no mapping"
    if data.keys() & {"resources", "patches", "components"}:
        return _refused_kustomization(data)
    if "scrape_configs" in data:
        return _refused_by_prometheus(text)
    if data.keys() == {"prometheus"}:
        unknown = data["prometheus"].get("prometheusSpec", {"": 0}).keys() - OF_THE_CHART
        return f"the chart has no such values: {unknown}" if unknown else None
    return "nothing here takes such YAML"


def _refused_kustomization(data: dict[str, Any]) -> str | None:
    """In a folder beside a checkout, or beside the overlays here; without resources, over `gpu`
    with an ingress. A patch that changes nothing is refused, which kustomize takes."""
    places = {"../../": "k8s/", "../": "k8s/overlays/", "../r1-serve/": ""}

    def here(name: str) -> str:
        begin = max((it for it in places if name.startswith(it)), key=len, default="")
        return f"../r1-serve/{places.get(begin, '')}{name.removeprefix(begin)}"

    whole = {
        "resources": ["../r1-serve/k8s/overlays/gpu"],
        "components": [] if "resources" in data else ["../r1-serve/k8s/components/ingress"],
        **data,
    }
    for kind in ("resources", "components"):
        whole[kind] = [here(name) for name in whole[kind]]
    try:
        changed = overlay_of(whole)
        for patch in data.get("patches", []):
            without = [it for it in data["patches"] if it is not patch]
            if overlay_of({**whole, "patches": without}).text == changed.text:
                return f"the patch of {patch.get('target')} changes nothing"
    except subprocess.CalledProcessError as exc:
        return str(exc.stderr).strip()
    return None


def _refused_by_prometheus(text: str) -> str | None:
    with tempfile.TemporaryDirectory() as name:
        Path(name, "alerts.yaml").write_bytes(ALERTS.read_bytes())
        path = Path(name, "prometheus.yml")
        path.write_text(text)
        return _complaint_of_promtool("config", path)


# --- queries ------------------------------------------------------------------------------------


def refused_queries(text: str, exports: Exported) -> str | None:
    """PromQL, a query a line."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    if found := problems([Query("", line) for line in lines], exports):
        return found[0].removeprefix(": ")
    rules = [{"record": f"q{number}", "expr": line} for number, line in enumerate(lines)]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "rules.yaml")
        path.write_text(yaml.safe_dump({"groups": [{"name": "page", "rules": rules}]}))
        return _complaint_of_promtool("rules", path, "--lint=none")


def _complaint_of_promtool(what: str, path: Path, *options: str) -> str | None:
    try:
        promtool("check", what, *options, path)
    except AssertionError as exc:
        return str(exc)
    return None
