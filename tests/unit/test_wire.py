"""JSON as it goes over the wire."""

from hypothesis import given
from hypothesis import strategies as st

from consumers import wire


@given(st.recursive(st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_json_comes_back(value: object) -> None:
    """What is written is read again, lone surrogates included, and the bytes are UTF-8."""
    data = wire.dumps(value)
    data.decode("utf-8")
    assert wire.loads(data) == value
