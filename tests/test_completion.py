"""What a keyed completion reads of its engine."""

from __future__ import annotations

import pytest

from serve.completion import Meter
from serve.errors import UpstreamError


@pytest.mark.parametrize("body", [b"", b"[]", b'{"usage":1}', b'{"x":' + b"[" * 200_000])
def test_what_can_not_be_read_is_the_engines_fault(body: bytes) -> None:
    """Nesting without end too: its error is not msgspec's own."""
    with pytest.raises(UpstreamError, match="could not be read"):
        Meter({}).read(body)
