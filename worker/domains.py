"""Who answers for a host: limits by registered domain, of which one owner can have as many names as he likes."""

import asyncio
from dataclasses import dataclass

from aiohttp.helpers import is_ip_address


def registered_domain(host: str) -> str:
    """The last two labels of a name; an IP address is its own.

    A list of public suffixes would tell a.co.uk from b.co.uk. Taking them for one is good enough where all that
    they share is a limit, and needs no list that ages.
    """
    return host if is_ip_address(host) else ".".join(host.lower().rstrip(".").split(".")[-2:])


@dataclass(slots=True)
class _Share:
    turns: asyncio.Semaphore
    num_users: int = 0


class Shares:
    """As many turns for each key, which is forgotten when nobody holds or awaits one."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._shares: dict[str, _Share] = {}

    def __len__(self) -> int:
        return len(self._shares)

    async def acquire(self, key: str) -> None:
        """Wait for a turn of `key`. Each is to be followed by a `release`."""
        share = self._shares.get(key)
        if share is None:
            share = self._shares[key] = _Share(asyncio.Semaphore(self._size))
        share.num_users += 1
        try:
            await share.turns.acquire()
        except BaseException:
            self._leave(key, share)
            raise

    def release(self, key: str) -> None:
        """Give a turn back."""
        share = self._shares[key]
        share.turns.release()
        self._leave(key, share)

    def _leave(self, key: str, share: _Share) -> None:
        share.num_users -= 1
        if not share.num_users:
            del self._shares[key]
