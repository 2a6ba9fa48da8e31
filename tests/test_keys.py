from __future__ import annotations

import os
import time
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import InvalidKey, RateLimitExceeded
from serve.keys import Key, KeyRing, check_exposure, hash_of, new_key, read_keys
from serve.settings import ServerSettings, SettingsError
from serve.shared import Shared
from serve.worker import Worker


def table(name: str, key: str, **limits: object) -> str:
    lines = [
        f"{field} = {msgspec.json.encode(value).decode()}\n" for field, value in limits.items()
    ]
    return (
        f'[keys.{name}]\nid = "{key[3:15]}"\nhash = "{hash_of(key)}"\ncreated = "2026-11-30"\n'
        + "".join(lines)
    )


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"authorization", b"Bearer " + key.encode())]


@pytest.fixture
def key() -> str:
    return new_key()[0]


@pytest.fixture
def path(tmp_path: Path, key: str) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(table("alice", key))
    return path


def test_a_new_key_has_256_random_bits_and_is_kept_as_a_hash() -> None:
    key, key_id, digest = new_key()
    assert key.startswith(f"r1-{key_id}-")
    assert len(key.removeprefix(f"r1-{key_id}-")) == 43  # 32 bytes in base64
    assert digest == hash_of(key)
    assert new_key()[0] != key


@pytest.mark.parametrize("name", [b"authorization", b"x-api-key"])
def test_a_known_key_opens_in_either_header(path: Path, key: str, name: bytes) -> None:
    ring = KeyRing(path, Shared())
    sent = key.encode() if name == b"x-api-key" else b"bearer " + key.encode()
    assert ring.holder_of([(name, sent)]).account.name == "alice"


@pytest.mark.parametrize("sent", ["", "r1", "r1-", "sk-abc", "r1-000000000000-x", "ключ"])
def test_other_keys_are_refused_and_never_repeated(path: Path, sent: str) -> None:
    with pytest.raises(InvalidKey) as refused:
        KeyRing(path, Shared()).holder_of(bearer(sent))
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")
    assert not sent or sent not in refused.value.message.split()


@given(st.binary(max_size=80))
def test_any_bytes_for_a_key_are_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, sent: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "none.toml"
    path.write_text("")
    with pytest.raises(InvalidKey):
        KeyRing(path, Shared()).holder_of([(b"authorization", b"Bearer " + sent)])


def test_the_right_id_with_another_secret_is_refused(path: Path, key: str) -> None:
    with pytest.raises(InvalidKey):
        KeyRing(path, Shared()).holder_of(bearer(key[:-1] + ("A" if key[-1] != "A" else "B")))


def test_a_revoked_key_stops_and_a_new_one_works_at_the_next_poll(path: Path, key: str) -> None:
    ring, other = KeyRing(path, Shared()), new_key()[0]
    path.write_text(table("bob", other))
    ring.poll()
    assert ring.holder_of(bearer(other)).account.name == "bob"
    with pytest.raises(InvalidKey):
        ring.holder_of(bearer(key))


def test_a_broken_or_missing_file_leaves_the_old_keys(
    path: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is reported once, not at every poll; a good file is taken up again."""
    ring = KeyRing(path, Shared())
    for broken in ("[keys.alice", "[keys.alice]\nid = 1\n", None):
        path.unlink() if broken is None else path.write_text(broken)
        caplog.clear()
        ring.poll()
        ring.poll()
        assert [record.message[:18] for record in caplog.records] == ["keys not reloaded,"]
        assert not ring.reloaded
        assert ring.holder_of(bearer(key)).account.name == "alice"
    path.write_text("")
    ring.poll()
    assert ring.reloaded
    with pytest.raises(InvalidKey):
        ring.holder_of(bearer(key))


def test_a_symbolic_link_that_is_swapped_is_noticed(tmp_path: Path, key: str) -> None:
    """As Kubernetes changes a mounted secret: the path's own link never changes."""
    for version, text in (("v1", table("alice", key)), ("v2", "")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "keys.toml").write_text(text)
        os.utime(tmp_path / version / "keys.toml", (0, 0))
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "keys.toml").symlink_to("..data/keys.toml")
    ring = KeyRing(tmp_path / "keys.toml", Shared())
    (tmp_path / "..new").symlink_to("v2")
    (tmp_path / "..new").replace(tmp_path / "..data")
    ring.poll()
    with pytest.raises(InvalidKey):
        ring.holder_of(bearer(key))


def test_an_account_outlives_a_reload(path: Path, key: str) -> None:
    """What is open and used still counts, under the new limits."""
    ring = KeyRing(path, Shared())
    account = ring.holder_of(bearer(key)).account
    account.enter(0.0)
    path.write_text(table("alice", key, max_in_flight=7))
    ring.poll()
    assert ring.holder_of(bearer(key)).account is account


def test_workers_hold_a_key_to_one_limit(tmp_path: Path, path: Path, key: str) -> None:
    """What one worker takes is gone for the other."""
    path.write_text(table("alice", key, requests_per_minute=2, max_in_flight=9))
    first, second = (
        KeyRing(path, Shared(Worker(index, 2, str(tmp_path)))).holder_of(bearer(key)).account
        for index in range(2)
    )
    now_s = time.monotonic()
    first.enter(now_s)
    second.enter(now_s)
    for account in (first, second):
        with pytest.raises(RateLimitExceeded):
            account.enter(now_s)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[key.a]\n", "unknown field `key`; did you mean `keys`?"),
        ("[keys.a]\nid = 'x'\n", "`keys"),
        ("[keys.a]\nmax_inflight = 1\n", "did you mean `max_in_flight`?"),
        ("[keys", "not valid TOML"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "k.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as failure:
        read_keys(path)
    assert message in str(failure.value)


def test_two_keys_cannot_share_an_id(tmp_path: Path, key: str) -> None:
    (tmp_path / "k.toml").write_text(table("a", key) + table("b", key))
    with pytest.raises(SettingsError, match="two keys have one `id`"):
        read_keys(tmp_path / "k.toml")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_loopback_is_open_without_keys(host: str) -> None:
    check_exposure(ServerSettings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "", "box.example"])
def test_other_addresses_need_keys_or_a_word(host: str) -> None:
    """The message gives both remedies."""
    with pytest.raises(SettingsError, match=r"key create.*keys_file.*allow_anonymous = true"):
        check_exposure(ServerSettings(host=host))
    check_exposure(ServerSettings(host=host, allow_anonymous=True))
    check_exposure(ServerSettings(host=host, keys_file="k.toml"))


def test_the_file_holds_no_key(path: Path, key: str) -> None:
    text = path.read_text()
    assert key not in text
    assert key.split("-", 2)[2] not in text
    assert isinstance(read_keys(path)["alice"], Key)
    assert tomllib.loads(text)["keys"]["alice"]["hash"] == hash_of(key)
