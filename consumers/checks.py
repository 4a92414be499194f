"""What is looked at before the start: small checks with a deadline each, and what follows from one that fails."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from consumers.deadline import within

State = Literal["ok", "warn", "fail", "skipped"]

CHECK_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Found:
    """What a check saw, and what to do about it: one thing, empty where nothing is to be done."""

    state: State
    seen: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A check that was done, or why it wasn't.

    `cause` names the check that has to go well before those that need this one make sense; None where all is well.
    """

    name: str
    state: State
    seen: str
    fix: str = ""
    cause: str | None = field(default=None, compare=False)


class Trouble(Exception):
    """Raised by a check that fails: what was seen, and what to do. Neither quotes a secret."""

    def __init__(self, seen: str, fix: str) -> None:
        super().__init__(seen)
        self.found = Found("fail", seen, fix)


class Untold(Exception):
    """Raised by a check whose answer isn't told to us. Says why."""


def ok(seen: str) -> Found:
    """All is well."""
    return Found("ok", seen)


class Checklist:
    """Does checks one after another, for `seconds` altogether; each is told to `on_check` when it is done."""

    def __init__(self, seconds: float, on_check: Callable[[Check], None] = lambda _check: None) -> None:
        self._end = time.monotonic() + seconds
        self._on_check = on_check
        self.checks: list[Check] = []

    def do(
        self,
        name: str,
        act: Callable[[], Found],
        *,
        late: str,
        needs: tuple[Check, ...] = (),
        seconds: float = CHECK_SECONDS,
    ) -> Check:
        """Do one check, unless one of those that it needs failed. `late`: what to do where no answer comes."""
        if cause := next((need.cause for need in needs if need.cause is not None), None):
            return self.add(Check(name, "skipped", f"not tried, for {cause} failed", cause=cause))
        left = min(seconds, self._end - time.monotonic())
        if left <= 0:
            return self.add(Check(name, "skipped", "not tried, for no time was left", cause="an earlier check"))
        found = _found(act, left, late)
        return self.add(Check(name, found.state, found.seen, found.fix, cause=name if found.state == "fail" else None))

    def skip(self, name: str, why: str) -> Check:
        """Leave out a check that makes no sense here; those that need it go on."""
        return self.add(Check(name, "skipped", why))

    def add(self, check: Check) -> Check:
        """Take a check that was done elsewhere."""
        self.checks.append(check)
        self._on_check(check)
        return check


def _found(act: Callable[[], Found], seconds: float, late: str) -> Found:
    found: list[Found] = []
    try:
        within(seconds, lambda: found.append(act()))
    except Trouble as trouble:
        return trouble.found
    except Untold as untold:
        return Found("skipped", str(untold))
    except TimeoutError:
        return Found("fail", f"no answer within {seconds:.1f} s", late)
    except OSError as error:
        return Found("fail", error.strerror or type(error).__name__, late)
    except Exception as error:
        # Its words may quote what we sent, passwords as well.
        return Found("fail", f"an answer that makes no sense ({type(error).__name__})", late)
    return found[0]
