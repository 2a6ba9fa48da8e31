from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.strict import StrictError, check_keys, convert, did_you_mean, nearest


class Inner(msgspec.Struct):
    depth: int = 0


class Outer(msgspec.Struct):
    name: str
    inner: Inner = msgspec.field(default_factory=Inner)
    maybe: Inner | None = None


def test_right_data_becomes_the_struct() -> None:
    """Nested mappings too."""
    assert convert({"name": "a", "inner": {"depth": 2}}, Outer) == Outer("a", Inner(2))


@pytest.mark.parametrize(
    ("data", "field", "message"),
    [
        ({"nam": "a"}, "nam", "unknown field `nam`; did you mean `name`?"),
        ({"name": "a", "inner": {"dept": 1}}, "inner.dept", "did you mean `depth`?"),
        ({"name": "a", "maybe": {"dept": 1}}, "maybe.dept", "did you mean `depth`?"),
        ({"name": "a", "zzz": 1}, "zzz", "unknown field `zzz`"),
        ({"name": 1}, "name", "`name`: expected `str`"),
        ({"name": "a", "inner": {"depth": "x"}}, "inner.depth", "`inner.depth`: expected `int`"),
        ({}, "", "missing required field `name`"),
    ],
)
def test_mistakes_name_the_field(data: dict[str, object], field: str, message: str) -> None:
    """The error carries the dotted path, and says what would be right."""
    with pytest.raises(StrictError) as failure:
        convert(data, Outer)
    assert failure.value.field == field
    assert message in str(failure.value)


def test_nothing_near_suggests_nothing() -> None:
    """A far-off name gets no wrong advice."""
    assert nearest("zebra", ["name", "inner"]) is None
    assert did_you_mean("zebra", ["name", "inner"]) == ""
    assert nearest("NAME", ["name"]) == "name"


@given(st.dictionaries(st.text(), st.integers()))
def test_unknown_keys_never_pass(data: dict[str, int]) -> None:
    """Whatever the key, it is known or refused."""
    known = {"name", "inner", "maybe"}
    if set(data) <= known:
        check_keys(data, Outer)
    else:
        with pytest.raises(StrictError) as failure:
            check_keys(data, Outer)
        assert failure.value.field in set(data) - known
