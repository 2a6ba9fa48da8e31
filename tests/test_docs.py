"""What README and docs/ name exists: links and their anchors, commands of r1-serve with their
options, make targets, settings, metrics, alerts, Kubernetes objects."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main
import yaml

from serve.cli import app
from serve.errors import ServeError
from serve.router import build_app
from serve.settings import RouterSettings, Settings
from tests.conftest import ROOT
from tests.monitoring.support import rules

DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
RUNBOOK = ROOT / "docs" / "runbook.md"
CLI: Any = typer.main.get_command(app)

doc_pages = pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))


def prose(path: Path) -> str:
    """Without code blocks."""
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)


def blocks(path: Path, *languages: str) -> list[str]:
    """The code blocks in one of these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(), re.M | re.S)
    return [text for language, text in found if language in languages]


def sections(path: Path) -> dict[str, str]:
    """Anchor, as GitHub makes it of the heading, → what stands below, subsections included."""
    text = prose(path)
    seen: Counter[str] = Counter()
    found = {}
    for heading in re.finditer(r"^(#+) (.*)$", text, re.M):
        bare = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[2]).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", bare).replace(" ", "-")
        below = re.split(rf"^#{{1,{len(heading[1])}}} ", text[heading.end() :], flags=re.M)[0]
        found[f"{slug}-{seen[slug]}" if seen[slug] else slug] = below
        seen[slug] += 1
    return found


@doc_pages
def test_links_lead_somewhere(path: Path) -> None:
    """Files of the checkout, and headings in them."""
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if anchor:
            assert anchor in sections(target), link


def test_the_readme_leads_to_every_page() -> None:
    linked = re.findall(r"\]\((docs/[^)#\s]+\.md)", prose(ROOT / "README.md"))
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")} <= set(linked)


# --- commands -----------------------------------------------------------------------------------


class Use(NamedTuple):
    """`r1-serve …` as a page has it."""

    text: str
    words: list[str]


def uses(path: Path) -> Iterator[Use]:
    """In shell blocks and in code within a line; `…` and what follows is left out."""
    lines = [
        line
        for block in blocks(path, "sh", "bash", "console", "")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(path))
    for text in (*lines, *inline):
        for command in re.findall(r"(?:^|(?<!-n)[\s/])r1-serve (?=[a-z-])(.*)", text):
            end = r"[…|;&<>#)\]\[]|\s--\s"
            cut = re.split(end, command)[0]
            if not re.match(r"[a-z]+(?=[\s]|$)", cut):
                continue
            yield Use(text, split(cut))


def split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quote that the page closes further on
        return text.split()


def complaint(words: list[str]) -> str | None:
    """What of a command line isn't there."""
    command, path = CLI, ["r1-serve"]
    rest = list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name not in command.commands:
            return f"{' '.join(path)} has no command {name}"
        command = command.commands[name]
        path.append(name)
    options = {
        option: it
        for it in command.params
        for option in (*it.opts, *it.secondary_opts)
        if option.startswith("-")
    }
    for word in rest:
        option = word.partition("=")[0]
        if option.startswith("--") and option not in {*options, "--help"}:
            return f"{' '.join(path)} has no option {option}"
    return None


@doc_pages
def test_commands_and_their_options_exist(path: Path) -> None:
    found = [(use.text, why) for use in uses(path) if (why := complaint(use.words))]
    assert not found


def test_a_command_that_does_not_exist_is_noticed() -> None:
    assert complaint(["router", "--engine-url", "http://a"]) is None
    assert complaint(["scale", "3", "--port", "8000"]) is None
    assert complaint(["scale", "3", "--prot", "8000"]) == "r1-serve scale has no option --prot"
    assert complaint(["key", "rotate"]) == "r1-serve key has no command rotate"
    assert sum(1 for path in DOCS for _ in uses(path)) > 100


@doc_pages
def test_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    inline = re.findall(r"`([^`\n]+)`", prose(path))
    for text in (*inline, *"\n".join(blocks(path, "sh", "bash", "console")).splitlines()):
        for target in re.findall(r"(?:^|&& )make ([a-z][a-z0-9-]*)", text):
            assert target in targets, text


# --- names --------------------------------------------------------------------------------------


@doc_pages
def test_settings_exist(path: Path) -> None:
    """`table.key` in backquotes; `domain.org/name` is a label of Kubernetes."""
    tables = {name: getattr(Settings(), name) for name in Settings.__struct_fields__}
    for table, key in re.findall(r"`(\w+)\.(\w+)\b(?![(/])", prose(path)):
        if hasattr(tables.get(table), "__struct_fields__") and key not in ("py", "toml", "init"):
            assert hasattr(tables[table], key), f"{table}.{key}"


@pytest.fixture(scope="module")
def router_metrics() -> set[str]:
    """Names of families and of their samples."""
    router = build_app(Settings(router=RouterSettings(engine_urls=["http://127.0.0.1:9"])))
    text = router.state.router.telemetry.exposition().decode()
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))
    histograms = [name for name, kind in kinds.items() if kind == "histogram"]
    parts = [f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")]
    return {*kinds, *parts}


@doc_pages
def test_metrics_of_the_router_exist(path: Path, router_metrics: set[str]) -> None:
    """`r1_process_*` and its like stand for several."""
    for name, more in re.findall(r"\b(r1_[a-z0-9_]+)(\*|…)?", path.read_text()):
        if more:
            assert any(it.startswith(name) for it in router_metrics), name
        else:
            assert name in router_metrics or name in ("r1_serve",), name


def test_metrics_of_the_engine_exist() -> None:
    """By vLLM's source, where it is installed."""
    spec = importlib.util.find_spec("vllm")
    source = Path(((spec and spec.submodule_search_locations) or [""])[0], "v1", "metrics")
    if not source.is_dir():
        pytest.skip("no vLLM here")
    known = "".join(it.read_text() for it in source.glob("*.py"))
    for path in DOCS:
        for name in re.findall(r"\bvllm:([a-z][a-z0-9_]+)", path.read_text()):
            bare = re.sub(r"_(total|bucket|sum|count)$", "", name)
            assert f'"vllm:{bare}' in known, f"{path.name}: {name}"


@doc_pages
def test_kubernetes_objects_exist(path: Path) -> None:
    """`kind/name` and `kind name` in commands of kubectl. An overlay that the page has its reader
    write is rendered by tests/docs."""
    named = {
        (it["kind"].lower(), it["metadata"]["name"])
        for file in (ROOT / "k8s").rglob("*.yaml")
        for it in yaml.safe_load_all(file.read_text())
        if it and "metadata" in it
    }
    text = path.read_text()
    for command in re.findall(r"kubectl [^`\n]*", text):
        for kind, name in re.findall(
            r"\b(deployment|service|job|daemonset)[/ ]([a-z0-9-]+)", command
        ):
            assert (kind, name) in named, command
        for overlay in re.findall(r"-k (\S+)", command):
            file = f"{overlay}/kustomization.yaml"
            assert (ROOT / file).is_file() or f"\ncat > {file} <<" in text, command


# --- the runbook --------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_alert_leads_to_a_section_that_names_it(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page.endswith("docs/runbook.md")
    assert f"`{rule['alert']}`" in sections(RUNBOOK)[anchor]


def test_alerts_that_pages_name_exist() -> None:
    known = {rule["alert"] for rule in rules()}
    for path in DOCS:
        assert set(re.findall(r"`(R1[A-Z]\w+)`", path.read_text())) <= known, path.name


def test_the_runbook_knows_every_error_that_a_client_may_get() -> None:
    """Those of the transport apart, which need no one on call."""

    def codes(kind: type[ServeError]) -> set[str]:
        return {str(kind.code)}.union(*(codes(it) for it in kind.__subclasses__()))

    told = set(re.findall(r"`(\w+)`", RUNBOOK.read_text()))
    quiet = {"internal_error", "malformed_http", "headers_too_large", "not_found"}
    assert codes(ServeError) - told <= {*quiet, "method_not_allowed"}


# --- the doctor ---------------------------------------------------------------------------------


class Said(NamedTuple):
    """A finding as the doctor's code words it: `fixed` are the words between what varies."""

    check: str
    fixed: tuple[str, ...]


def findings() -> Iterator[Said]:
    """Of every call that makes one that isn't `ok`."""
    for path in (ROOT / "serve" / "doctor").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            match call:
                case ast.Call(
                    func=ast.Name(id="problem" | "warning" | "tell" | "_refused"),
                    args=[ast.Constant(value=str(check)), summary, *_],
                ):
                    yield Said(check, fixed_words(summary))
                case ast.Call(func=ast.Name(id="Fault"), args=[summary, *_]):
                    yield Said("model", fixed_words(summary))


def fixed_words(summary: ast.expr) -> tuple[str, ...]:
    parts = summary.values if isinstance(summary, ast.JoinedStr) else [summary]
    words = [str(part.value).strip() for part in parts if isinstance(part, ast.Constant)]
    return tuple(it for it in words if re.search(r"\w", it))


@pytest.mark.parametrize("check", sorted({said.check for said in findings()}))
def test_troubleshooting_has_every_finding_of_the_doctor(check: str) -> None:
    """A section for each check, and in it each finding in the doctor's words; those that are made
    elsewhere, such as by the settings' own errors, in words of the page."""
    section = sections(ROOT / "docs" / "troubleshooting.md")[check]
    for said in findings():
        if said.check == check:
            pattern = ".+".join(map(re.escape, said.fixed))
            assert re.search(pattern, section), said.fixed
