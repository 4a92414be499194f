"""W3C trace context in the headers of Kafka: what a post brought along goes on with its event.

https://www.w3.org/TR/trace-context/: `traceparent`, and `tracestate` beside it, which means nothing alone.
"""

import re
from collections.abc import Sequence

Header = tuple[str, bytes]

PARENT, STATE = "traceparent", "tracestate"

MAX_STATE_BYTES = 512
"""What has to be passed on at least; a longer one isn't."""

# Version 00 is these four parts; a later version may have more behind them. Ids of zeros, and version ff, are none.
_STATE = re.compile(rb"[ -~]+")
"""An HTTP header may be made of it by whoever reads the event."""

_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[ -~]{0,400})?")


def trace_of(headers: Sequence[Header]) -> tuple[Header, ...]:
    """The trace context among a message's headers, as it came; empty for none, or one that isn't well formed.

    Several parents are none: nobody knows which is the right one.
    """
    parents = [value for name, value in headers if name == PARENT]
    if len(parents) != 1 or not _PARENT.fullmatch(parents[0]):
        return ()
    if parents[0].startswith(b"00-") and len(parents[0]) > 55:
        return ()
    state = b",".join(value for name, value in headers if name == STATE)
    is_kept = len(state) <= MAX_STATE_BYTES and _STATE.fullmatch(state)
    return ((PARENT, parents[0]), (STATE, state)) if is_kept else ((PARENT, parents[0]),)
