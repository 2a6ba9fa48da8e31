from __future__ import annotations

import contextlib
import errno
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.models.check import check_model
from serve.models.fetch import Patience
from serve.models.hubs import HUBS
from serve.models.pull import Wanted, pull
from serve.models.store import MANIFEST, WORK, Manifest, ModelError, read_manifest
from tests.models.hub import COMMIT, TOKEN, Fault, Hub, Repo, running_hub, sha256
from tests.stack import wait_until

WEIGHTS = bytes(i * i % 251 for i in range(300_000))
FILES = {
    "config.json": b'{"model_type": "qwen2"}',
    "tokenizer.json": b"{}" * 500,
    "model.safetensors": WEIGHTS,
    "LICENSE": b"MIT",
    "empty.txt": b"",
}
BESIDE = {"README.md": b"#", "onnx/model.onnx": b"x", "pytorch_model.bin": b"the same again"}


class Heard:
    """A watcher that keeps what it hears."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.num_done = self.num_bytes = 0

    def tell(self, text: str) -> None:
        self.told.append(text)

    def begin(self, doing: str, num_bytes: int, num_done: int = 0) -> None:
        self.num_bytes, self.num_done = num_bytes, num_done

    def advance(self, num_bytes: int) -> None:
        self.num_done += num_bytes
        assert 0 <= self.num_done <= self.num_bytes


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with running_hub(org__model=FILES | BESIDE) as hub:
        yield hub


def bring(hub: Hub, directory: Path, heard: Heard | None = None, **fields: Any) -> Manifest:
    name = fields.pop("hub_name", "huggingface")
    patience = Patience(num_tries=3, sleep=fields.pop("sleep", lambda seconds: None))
    wanted = Wanted("org/model", directory, HUBS[name], hub.url, **fields)
    return pull(wanted, heard or Heard(), patience)


def held(directory: Path) -> dict[str, bytes]:
    """The directory's files, the manifest left out."""
    found = {path.name: path for path in directory.iterdir() if path.name != MANIFEST}
    return {name: path.read_bytes() for name, path in found.items()}


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_a_pulled_directory_holds_what_serving_needs(hub: Hub, tmp_path: Path, name: str) -> None:
    """And a manifest of it; no second form of the weights, no folders, nothing of the work."""
    heard = Heard()
    manifest = bring(hub, tmp_path / "a" / "m", heard, hub_name=name)
    assert held(tmp_path / "a" / "m") == FILES
    assert {it: file.sha256 for it, file in manifest.files.items()} == {
        it: sha256(data) for it, data in FILES.items()
    }
    assert (manifest.repo, manifest.hub, manifest.endpoint) == ("org/model", name, hub.url)
    assert manifest.commit == (COMMIT if name == "huggingface" else None)
    assert read_manifest(tmp_path / "a" / "m") == manifest
    assert heard.num_done == heard.num_bytes == sum(map(len, FILES.values()))


def test_a_complete_model_needs_no_network(hub: Hub, tmp_path: Path) -> None:
    """It is returned at once."""
    first = bring(hub, tmp_path)
    num_asked = len(hub.asked)
    hub.stop()
    assert bring(hub, tmp_path) == first
    assert bring(hub, tmp_path, revision="main") == first
    assert bring(hub, tmp_path, revision=COMMIT) == first
    assert len(hub.asked) == num_asked


@settings(max_examples=15)
@given(st.lists(st.integers(0, 120_000), max_size=8), st.data())
def test_cut_anywhere_it_ends_right_and_no_byte_comes_twice(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], data: st.DataObject
) -> None:
    """Whether the connection is cut or the pull ends and another goes on."""
    directory = tmp_path_factory.mktemp("model")
    with running_hub(org__model=FILES) as hub:
        hub.fault("model.safetensors", *(Fault(cut_after=cut) for cut in cuts))
        while True:
            with contextlib.suppress(ModelError):  # three cuts in a row without a byte
                bring(hub, directory, sleep=_maybe_interrupt(data))
            if (directory / MANIFEST).exists():
                break
        assert held(directory) == FILES
        assert hub.num_sent["model.safetensors"] == len(WEIGHTS)


def _maybe_interrupt(data: st.DataObject) -> Any:
    def sleep(seconds: float) -> None:
        if data.draw(st.booleans()):
            raise ModelError("stopped here")

    return sleep


@pytest.mark.parametrize(
    "fault",
    [
        Fault(flip_at=7),
        Fault(status=503),
        Fault(status=429, headers={"Retry-After": "7"}),
        Fault(page=b"<html>Please log in to this network</html>"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_passing_fault_is_mended(hub: Hub, tmp_path: Path, name: str, fault: Fault) -> None:
    """Wrong bytes of either kind of file, a busy hub, a proxy's page: the file is asked for again,
    no sooner than the hub wants."""
    hub.fault(name, fault)
    waits: list[float] = []
    bring(hub, tmp_path, sleep=waits.append)
    assert held(tmp_path) == FILES
    assert fault.status != 429 or waits == [7.0]


def test_a_busy_listing_is_asked_for_again(hub: Hub, tmp_path: Path) -> None:
    """As files are."""
    hub.fault("", Fault(status=503), Fault(status=502))
    bring(hub, tmp_path)
    assert held(tmp_path) == FILES


def test_where_range_is_ignored_the_file_comes_whole(hub: Hub, tmp_path: Path) -> None:
    """A 200 to a request for the rest begins at the beginning."""
    hub.fault("model.safetensors", Fault(cut_after=1000), Fault(ignores_range=True))
    bring(hub, tmp_path)
    assert held(tmp_path) == FILES
    assert [it.range for it in hub.asked if it.is_store] == [None, "bytes=1000-"]


def test_as_long_as_bytes_come_it_goes_on(hub: Hub, tmp_path: Path) -> None:
    """Only failures in a row are counted."""
    hub.fault("model.safetensors", *[Fault(cut_after=1)] * 10)
    bring(hub, tmp_path)
    assert held(tmp_path) == FILES


def test_a_broken_part_is_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    """A disk that lost what a killed pull had written costs one more fetch, not the model."""
    hub.fault("model.safetensors", *(Fault(cut_after=cut) for cut in (1000, 0, 0)))
    with pytest.raises(ModelError):
        bring(hub, tmp_path)
    (part,) = (tmp_path / WORK).glob("model.safetensors.*")
    assert part.stat().st_size == 1000
    part.write_bytes(b"\0" * 1000)
    bring(hub, tmp_path)
    assert held(tmp_path) == FILES


def test_a_hub_with_wrong_bytes_is_told_and_nothing_of_it_kept(hub: Hub, tmp_path: Path) -> None:
    """Twice from the beginning, then it is the hub's fault."""
    hub.fault("model.safetensors", Fault(flip_at=0), Fault(flip_at=0))
    with pytest.raises(ModelError, match=r"sends other bytes for model\.safetensors"):
        bring(hub, tmp_path)
    assert not (tmp_path / MANIFEST).exists()
    assert not list((tmp_path / WORK).glob("model.safetensors.*"))


def test_without_checksums_no_pull_goes_on_with_anothers_bytes(hub: Hub, tmp_path: Path) -> None:
    """A mirror that gives none: within a pull a file goes on, the next pull begins it anew, as the
    branch may have moved. Which files came unchecked is told."""
    hub.repos["org/model"] = Repo(FILES, has_checksums=False)
    cuts = (Fault(cut_after=cut) for cut in (1000, 2000, 0, 0))
    hub.fault("model.safetensors", *cuts)
    with pytest.raises(ModelError):
        bring(hub, tmp_path)
    assert hub.num_sent["model.safetensors"] == 3000
    newer = FILES | {"model.safetensors": WEIGHTS[::-1]}
    hub.repos["org/model"] = Repo(newer, has_checksums=False, commit="f" * 40)
    heard = Heard()
    bring(hub, tmp_path, heard)
    assert held(tmp_path) == newer
    assert "no checksums of config.json, tokenizer.json, model.safetensors" in heard.told[-1]


def test_without_checksums_the_manifest_tells_what_is_right(hub: Hub, tmp_path: Path) -> None:
    """Of the same commit; files of another one are fetched though they have the same size."""
    hub.repos["org/model"] = Repo(FILES, has_checksums=False)
    bring(hub, tmp_path)
    hub.num_sent.clear()
    (tmp_path / "config.json").write_bytes(b"!" * len(FILES["config.json"]))
    bring(hub, tmp_path, repair=True)
    assert held(tmp_path) == FILES
    assert set(hub.num_sent) == {"config.json"}
    newer = FILES | {"model.safetensors": WEIGHTS[::-1]}
    hub.repos["org/model"] = Repo(newer, has_checksums=False, commit="f" * 40)
    bring(hub, tmp_path, revision="f" * 40)
    assert held(tmp_path) == newer


def test_without_checksums_what_was_put_there_half_way_is_not_trusted(
    hub: Hub, tmp_path: Path
) -> None:
    """Of a pull that ended while it took the place of another revision: no manifest tells."""
    hub.repos["org/model"] = Repo(FILES, has_checksums=False)
    bring(hub, tmp_path)
    newer = {it: data[::-1] for it, data in FILES.items()}
    hub.repos["org/model"] = Repo(newer, has_checksums=False, commit="f" * 40)
    (tmp_path / MANIFEST).unlink()
    (tmp_path / WORK).mkdir()
    (tmp_path / WORK / f"config.json.{len(newer['config.json'])}").write_bytes(newer["config.json"])
    bring(hub, tmp_path)
    assert held(tmp_path) == newer


def test_an_unreachable_hub_ends_with_a_remedy(hub: Hub, tmp_path: Path) -> None:
    """After a few tries; no directory is made."""
    hub.stop()
    heard = Heard()
    with pytest.raises(ModelError, match=r"can't be reached.*docs/models\.md"):
        bring(hub, tmp_path / "m", heard)
    assert len(heard.told) == 2
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("repo", "token", "revision", "words"),
    [
        ("org/other", None, None, "There is no org/other on .* set HF_TOKEN"),
        ("org/gated", None, None, "org/gated on .* is gated: accept its terms"),
        ("org/gated", "hf_bad", None, "doesn't know the token in HF_TOKEN"),
        ("org/model", None, "v9", "no such --revision"),
    ],
)
def test_refusals_say_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    repo: str,
    token: str | None,
    revision: str | None,
    words: str,
) -> None:
    """At once: trying again doesn't help. Nothing is left behind."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with running_hub(org__model=FILES, org__gated=Repo(FILES, gated=True)) as hub:
        wanted = Wanted(repo, tmp_path / "m", HUBS["huggingface"], hub.url, revision)
        heard = Heard()
        with pytest.raises(ModelError, match=words):
            pull(wanted, heard)
        assert heard.told == []
    assert not (tmp_path / "m").exists()


def test_modelscope_refuses_in_its_own_way(hub: Hub, tmp_path: Path) -> None:
    """Its token has another name."""
    with pytest.raises(ModelError, match="set MODELSCOPE_API_TOKEN"):
        bring(hub, tmp_path / "m", hub_name="modelscope", revision="v9")


def test_the_token_goes_to_the_hub_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redirected within the hub it goes along, to the store of large files it doesn't."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with running_hub(org__model=Repo(FILES, gated=True)) as hub:
        bring(hub, tmp_path)
        assert {it.token for it in hub.asked if not it.is_store} == {f"Bearer {TOKEN}"}
        assert {it.token for it in hub.asked if it.is_store} == {None}


def test_several_pulls_at_once_fetch_once(hub: Hub, tmp_path: Path) -> None:
    """The others wait, say so, and find it done."""
    hub.fault("model.safetensors", Fault(hold_after=100_000))
    heard = [Heard() for _ in range(4)]
    found: list[Manifest] = []
    threads = [
        threading.Thread(
            target=lambda it=it: found.append(bring(hub, tmp_path / "m", it)), daemon=True
        )
        for it in heard
    ]
    for thread in threads:
        thread.start()
    assert wait_until(
        lambda: sum("waiting for it" in " ".join(it.told) for it in heard) == 3, timeout_s=20
    )
    hub.release.set()
    for thread in threads:
        thread.join(20)
    assert len(found) == 4
    assert sorted(it.num_bytes > 0 for it in heard) == [False, False, False, True]
    assert held(tmp_path / "m") == FILES
    assert hub.num_sent["model.safetensors"] == len(WEIGHTS)


def test_a_file_system_without_locks_will_do(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some NFS servers have none."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    heard = Heard()
    bring(hub, tmp_path, heard)
    assert held(tmp_path) == FILES
    assert heard.told == ["This file system has no locks (No locks available); going on without."]


def test_too_small_a_disk_is_told_before_a_byte_comes(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both sizes."""
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(ModelError, match=r"has room for 1\.0 kB, but 301\.0 kB are to come"):
        bring(hub, tmp_path / "m")
    assert hub.num_sent == {}
    assert not (tmp_path / "m").exists()


def test_only_what_is_wrong_is_fetched_again(hub: Hub, tmp_path: Path) -> None:
    """Missing and short files by any pull, files that are broken within by `--repair`."""
    bring(hub, tmp_path)
    hub.num_sent.clear()
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "LICENSE").write_bytes(b"M")
    bring(hub, tmp_path)
    assert hub.num_sent == {"tokenizer.json": 1000, "LICENSE": 3}
    hub.num_sent.clear()
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"\xff")
    bring(hub, tmp_path)
    assert check_model(tmp_path).damage
    bring(hub, tmp_path, repair=True)
    assert hub.num_sent == {"model.safetensors": len(WEIGHTS)}
    assert not check_model(tmp_path).damage


def test_another_revision_replaces_what_differs(hub: Hub, tmp_path: Path) -> None:
    """Until it is there the old one stays whole; files that it hasn't go. Mending the old one
    isn't going on to the new one."""
    bring(hub, tmp_path)
    newer = FILES | {"model.safetensors": WEIGHTS[::-1]}
    del newer["LICENSE"]
    hub.repos["org/model"] = Repo(newer, commit="f" * 40)
    hub.fault("model.safetensors", *(Fault(cut_after=cut) for cut in (10, 0, 0)))
    with pytest.raises(ModelError):
        bring(hub, tmp_path, revision="f" * 40)
    assert not check_model(tmp_path).damage
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == FILES
    assert bring(hub, tmp_path, revision="f" * 40).commit == "f" * 40
    assert held(tmp_path) == newer
    (tmp_path / "empty.txt").unlink()
    hub.repos["org/model"].commit = "e" * 40
    with pytest.raises(ModelError, match="no such --revision"):
        bring(hub, tmp_path)


def test_files_from_elsewhere_are_taken_or_left_alone(hub: Hub, tmp_path: Path) -> None:
    """What is right needn't come again; what is other isn't overwritten."""
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "config.json").write_bytes(b"mine")
    with pytest.raises(
        ModelError, match=r"has another config\.json than org/model, from elsewhere"
    ):
        bring(hub, tmp_path)
    assert (tmp_path / "config.json").read_bytes() == b"mine"
    (tmp_path / "config.json").unlink()
    bring(hub, tmp_path)
    assert held(tmp_path) == FILES
    assert "model.safetensors" not in hub.num_sent


def test_a_directory_of_another_model_is_refused(hub: Hub, tmp_path: Path) -> None:
    """Two models in one directory would be none."""
    bring(hub, tmp_path)
    with pytest.raises(ModelError, match="holds org/model; choose another --to"):
        pull(Wanted("org/other", tmp_path, HUBS["huggingface"], hub.url), Heard())


def test_what_a_hub_calls_its_files_reaches_no_other_place(tmp_path: Path) -> None:
    """Names that lead out of the directory, or to files of ours, aren't written."""
    odd = {"../evil.json": b"{}", "/etc/evil.json": b"{}", MANIFEST: b"{}", ".hidden.json": b"{}"}
    with running_hub(org__model=FILES | odd) as hub:
        bring(hub, tmp_path / "m")
    assert held(tmp_path / "m") == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
