from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve.cli import app
from serve.key_commands import without_table
from serve.keys import KeyRing, read_keys
from serve.shared import Shared
from tests.test_keys import bearer


def run(*arguments: str, file: Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["key", *arguments, "--file", str(file)])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def test_a_made_key_works_and_a_revoked_one_is_gone(file: Path) -> None:
    """Printed once, kept as a hash, in a file that only its owner reads."""
    status, out, _ = run("create", "alice", file=file)
    key = out.strip()
    assert status == 0
    assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert KeyRing(file, Shared()).holder_of(bearer(key)).account.name == "alice"
    assert run("revoke", "alice", file=file)[0] == 0
    assert read_keys(file) == {}


def test_limits_and_class_are_kept_and_listed(file: Path) -> None:
    limits = ["--max-in-flight", "2", "--requests-per-minute", "30", "--tokens-per-minute", "9000"]
    run("create", "nightly", *limits, "--batch", file=file)
    key = read_keys(file)["nightly"]
    assert (key.max_in_flight, key.requests_per_minute, key.tokens_per_minute) == (2, 30, 9000)
    assert key.priority_class == "batch"
    out = run("list", file=file)[1]
    assert "nightly" in out
    assert "tokens_per_minute=9000" in out
    assert key.hash not in out


def test_other_keys_and_comments_stay(file: Path) -> None:
    run("create", "a", file=file)
    before = file.read_text() + "\n# for the night runs\n"
    file.write_text(before)
    run("create", "b", file=file)
    file.write_text(file.read_text().replace("[keys.b]", "[keys.b]  # team b"))
    run("create", "c", file=file)
    both = file.read_text()
    assert both.startswith(before.rstrip())
    run("revoke", "a", file=file)
    text = file.read_text()
    assert list(read_keys(file)) == ["b", "c"]
    assert "# for the night runs\n\n[keys.b]  # team b" in text
    assert text.startswith("# Keys of r1-serve")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "a"), "there is a key `a` already"),
        (("create", "a b"), "can't name a key"),
        (("revoke", "nobody"), "there is no key `nobody`"),
        (("revoke", "aa"), "did you mean `a`?"),
    ],
)
def test_mistakes_are_a_sentence_and_change_nothing(
    file: Path, arguments: tuple[str, str], words: str
) -> None:
    run("create", "a", file=file)
    before = file.read_text()
    status, out, err = run(*arguments, file=file)
    assert status == 2
    assert words in err
    assert out == ""
    assert file.read_text() == before


def test_listing_a_file_that_is_not_there_is_a_sentence(file: Path) -> None:
    status, _, err = run("list", file=file)
    assert status == 2
    assert "No such file" in err


def test_a_symbolic_link_stays_one(tmp_path: Path, file: Path) -> None:
    (tmp_path / "real.toml").write_text("")
    file.symlink_to("real.toml")
    run("create", "a", file=file)
    assert file.is_symlink()
    assert list(read_keys(tmp_path / "real.toml")) == ["a"]


def test_keys_made_at_once_are_all_kept(file: Path) -> None:
    """Two processes that edit the file at the same time wait for each other."""
    from tests.conftest import R1_SERVE, ROOT

    makers = [
        subprocess.Popen(
            [*R1_SERVE, "key", "create", f"k{number}", "--file", str(file)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        for number in range(3)
    ]
    assert [maker.wait(60) for maker in makers] == [0, 0, 0]
    assert sorted(read_keys(file)) == ["k0", "k1", "k2"]


def test_a_table_is_cut_out_alone() -> None:
    text = "# top\n\n[keys.a]\nid = 1\n# inside\nhash = 2\n\n# of b\n[keys.b]\nid = 3\n"
    assert without_table(text, "a") == "# top\n\n# of b\n[keys.b]\nid = 3\n"
    assert without_table(text, "b").endswith("hash = 2\n\n# of b\n")
    assert without_table(text, "c") == text
