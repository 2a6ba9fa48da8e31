"""The trial of a page notices what is wrong on it, and says where."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import stand_ins
from tests.docs.conftest import needed
from tests.docs.here import ROOT, Here
from tests.docs.pages import blocks, mentioned
from tests.docs.shell import Shell
from tests.docs.trial import Trial, refused_mention
from tests.monitoring.test_queries import of_router

RIGHT = """
# A page

```sh
r1-serve key create alice && r1-serve key list    # comments may say && too
MORE=1
mkdir -p elsewhere && cd elsewhere
kubectl apply -k ../k8s/overlays/gpu
```

```console
$ echo "$MORE engines"
2 engines
$ basename "$PWD"
elsewhere
```

```python
number = 2
print("the answer:", number)
```

```
the answer: …
```

  ```python
  print({"number": number + 1})
  ```

```sh
echo '{"a": {"b": [1, {"c": null}]}, "error": null}'
```

```json
{"a": {"b": [{"c": "…"}]}}
```

```sh
echo '{"error": {"code": "wrong"}}'; false
```

```json
{"error": {"code": "wrong"}}
```
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """On no network: nothing serves."""
    needed("bash", "kubectl", "make", "promtool")
    stand_ins.install(tmp_path / "bin")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("Makefile", "Dockerfile.cpu", "configs", "docs", "k8s"):
        (checkout / name).symlink_to(ROOT / name)
    shell = Shell(tmp_path / "reader", Here(checkout=str(checkout)), {})
    shell.prepare()
    return shell


def complaints(text: str, shell: Shell) -> list[str]:
    path = shell.folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return Trial(shell, of_router()).run(blocks(path), {})


def test_a_page_that_is_right_has_no_complaints(shell: Shell) -> None:
    """Names, variables, the folder: what one block leaves, the next finds."""
    assert complaints(RIGHT, shell) == []


SHELL = {
    "r1-serve keys list": "r1-serve  has no command ['keys']",
    "r1-serve key list --fil keys.toml": "No such option: --fil",
    "r1-serve up --config configs/cpu2.toml": "configs/cpu2.toml: No such file",
    "r1-serve bench run --rates 1 --batch 2": "give one of --concurrency, --rates",
    "kubectl -n r1-serve get depoyments": "k8s/ has no depoyments",
    "kubectl -n r1-serv get pods": "k8s/ has no namespace r1-serv",
    "kubectl -n r1-serve rollout statuss deployment/r1-router": "it has no command rollout statuss",
    "kubectl -n r1-serve rollout status deployment/r1-routers": "no deployment r1-routers",
    "kubectl get pods --namspace r1-serve": "unknown flag: --namspace",
    "kubectl -n r1-serve logs -l app.kubernetes.io/component=rooter": "nothing in k8s/ is labelled",
    "kubectl -n r1-serve port-forward service/r1-router 8000:81": "has no port 81",
    "kubectl -n r1-serve exec deployment/r1-router -- r1-serve docktor": "no command ['docktor']",
    "kubectl apply -k k8s/overlays/gpus": "there is no k8s/overlays/gpus",
    "docker build -t r1-serve:0.1.0 -f Dockerfile.cpu .": "manifests want the image",
    "docker compose --profile tpu up": "compose.yaml has no profile tpu",
    "docker compose restart engine": "compose.yaml has no service engine",
    "docker run --rm r1-serve:0.2.0-cpu": "no Dockerfile makes the image",
    "docker run --rmm r1-serve:0.1.0": "there is no option --rmm",
    "make serv": "No rule to make target 'serv'",
    "pip install 'r1-serve[anwsers]'": "there is no extra {'anwsers'}",
    "pip install opneai": "no list in requirements/ has opneai",
    "python -m benchmarks.fleet --pots docs/images": "unrecognized arguments: --pots",
    "nvidia-smi --query-gpu=nmae": "no field {'nmae'}",
    "no-such-program": "command not found",
    "r1-serve keys && echo done": "no command ['keys']",
    'echo "$(make serv)"': "No rule to make target",
    "false | cat": "page.md:6: cat",
    "ls no-such-file || true; r1-serve keys || true": "no command ['keys']",
}


@pytest.mark.parametrize("command", SHELL)
def test_a_wrong_command_is_told_with_its_line(command: str, shell: Shell) -> None:
    """And the next ones of its block aren't run, as nobody would go on."""
    text = f"# A page\n\n\n```sh\ntrue\n{command}\ntouch went-on\n```\n"
    (complaint,) = complaints(text, shell)
    assert complaint.startswith("page.md:")
    assert SHELL[command] in complaint
    assert not (shell.checkout / "went-on").exists() or "(" in command or "||" in command


REPLY = '```sh\necho \'{"a": {"b": [1]}}\'\n```\n\n'
PAGES = {
    "a python block that raises": (
        "```python\nx = 1\nx / 0\n```\n",
        "page.md:3: ZeroDivisionError",
    ),
    "a python block that isn't Python": ("```python\nx = = 1\n```\n", "page.md:2: SyntaxError"),
    "a package that isn't there": ("```python\nimport opneai\n```\n", "ModuleNotFoundError"),
    "a key": (f'{REPLY}```json\n{{"a": {{"c": 1}}}}\n```\n', "page.md:6: the reply has no a.c"),
    "a type": (f'{REPLY}```json\n{{"a": {{"b": ["1"]}}}}\n```\n', "a.b[] is 1"),
    "no JSON": (f'{REPLY}```json\n"a": 1\n```\n', "is no JSON"),
    "an error that doesn't come": (
        f'{REPLY}```json\n{{"error": {{"code": "x"}}}}\n```\n',
        "the error that the page shows doesn't come",
    ),
    "another error": (
        '```sh\necho \'{"error": 1}\'; false\n```\n```json\n{"error": 2}\n```\n',
        "page.md:5: the error is 1",
    ),
    "output": ("```sh\necho one\n```\n```\ntwo\n```\n", "page.md:5: nothing says 'two'"),
    "a session": ("```console\n$ echo one\n$ echo two\nthree\n```\n", "page.md:3: nothing says"),
    "a session that fails": ("```console\n$ true\n$ false\n```\n", "page.md:3: false"),
    "a setting": (
        "```toml\n[engine]\nmax_model_length = 1\n```\n",
        "did you mean `max_model_len`?",
    ),
    "a workload": ("```toml\n[[tenants]]\nnaem = 'a'\n```\n", "unknown field `naem`"),
    "a patch for nobody": (
        "```yaml\npatches:\n- target: {kind: Deployment, name: r1-router2}\n"
        '  patch: |-\n    - {op: add, path: /spec/x, value: "1"}\n```\n',
        "changes nothing",
    ),
    "a component": (
        "```yaml\nresources: [../gpu]\ncomponents: [../../components/monitor]\n```\n",
        "components/monitor",
    ),
    "a scrape": ("```yaml\nscrape_configs:\n- {job_nam: a}\n```\n", "job_nam"),
    "other YAML": ("```yaml\na: 1\n```\n", "nothing here takes such YAML"),
    "a metric": ("```promql\nrate(r1_request_total[5m])\n```\n", "nothing exports"),
    "a query": ("```promql\nrate(r1_requests_total[5m)\n```\n", "unexpected"),
    "a language": (
        "```rust\nfn main() {}\n```\n",
        "nobody knows what to do with 'rust'",
    ),
    "a log line": (
        '```json\n{"request_id": "a", "route": "/v1", "ruote": 1}\n```\n',
        "did you mean `route`?",
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_shows_wrongly_is_told(name: str, shell: Shell) -> None:
    text, told = PAGES[name]
    assert told in complaints(text, shell)[0]


def test_a_fence_that_nothing_closes_is_an_error(tmp_path: Path) -> None:
    """Else what is below would be no block."""
    path = tmp_path / "page.md"
    path.write_text("```sh\ntrue\n```\n\n```sh\nfalse\n")
    with pytest.raises(ValueError, match=r"page\.md: nothing closes"):
        blocks(path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("say `kubectl -n r1-serve get pods`", None),
        ("say `kubectl apply -k` or `docker exec` or `pip --no-deps`", None),
        ("say `kubectl -n r1-serve get potatoes`", "k8s/ has no potatoes"),
        ("say `make tset`", "No rule to make target 'tset'"),
        ("say `python -m benchmarks.fleet --quik`", "unrecognized arguments: --quik"),
    ],
)
def test_commands_in_prose_are_looked_at(text: str, complaint: str | None, tmp_path: Path) -> None:
    needed("kubectl", "make")
    path = tmp_path / "page.md"
    path.write_text(f"# A page\n\n{text}\n")
    found = [it for it in map(refused_mention, mentioned(path)) if it is not None]
    assert len(found) == (complaint is not None)
    assert all(it.startswith("page.md:3: ") and str(complaint) in it for it in found)
