"""A deadline for a client's calls that have none of their own."""

import threading
from collections.abc import Callable


def within(seconds: float, act: Callable[[], object]) -> None:
    """Run `act`, which has no deadline of its own. Raises TimeoutError, and leaves it behind."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} s")
    if raised:
        raise raised[0]
