"""Whether a checkpoint can be named while the worker runs: the watched file and its folder, or the key of Redis.

A worker starts whatever is there, on the checkpoint of the settings; so what is wrong here is a warning.
"""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from consumers.checks import Found, ok
from worker.checkpoint_place import MAX_PATH_BYTES, check_is_file

UNTIL_THEN = "until then the checkpoint of the settings is used"


def watched_file(path: Path) -> Found:
    """What stands at `checkpoints.watch`."""
    folder = path.parent
    try:
        is_there, is_open = folder.is_dir(), os.access(folder, os.X_OK)
    except PermissionError:
        is_there, is_open = True, False
    if not is_there:
        return Found(
            "warn",
            f"checkpoints.watch is {path}, and there is no folder {folder}",
            f"make the folder {folder}, or correct checkpoints.watch",
        )
    if not is_open:
        return Found(
            "warn", f"the folder {folder} of checkpoints.watch may not be read", f"let this user read {folder}"
        )
    missing = ok(f"nothing is at {path} yet; {UNTIL_THEN}")
    return _file(path, missing, "put a checkpoint there, or correct checkpoints.watch")


def watched_key(key: str) -> Callable[[Any], Awaitable[Found]]:
    """Asks a client of Redis what stands at `checkpoints.watch_key`."""

    async def ask(client: Any) -> Found:
        try:
            value = await client.get(key)
        except NoPermissionError:
            fix = f"ACL SETUSER the user ~{key} +get"
            return Found("warn", f"Redis does not let this user get {key} (checkpoints.watch_key)", fix)
        except ResponseError:
            fix = f"SET {key} to the path of a checkpoint, or name another key in checkpoints.watch_key"
            return Found("warn", f"the key {key} (checkpoints.watch_key) holds no text", fix)
        path = (value if isinstance(value, bytes) else b"")[:MAX_PATH_BYTES].decode("utf-8", "replace").strip()
        if not path:
            return ok(f"the key {key} isn't set; {UNTIL_THEN}")
        fix = f"SET {key} to the path that a checkpoint has on this machine"
        missing = Found("warn", f"the key {key} names {path}, which isn't there", fix)
        return _file(Path(path), missing, fix)

    return ask


def _file(path: Path, missing: Found, fix: str) -> Found:
    """Whether it can be a checkpoint; what is in it the worker looks at."""
    try:
        check_is_file(path)
    except FileNotFoundError:
        return missing
    except OSError as error:
        return Found("warn", f"{path} can't be used ({error.strerror})", fix)
    except ValueError as error:
        return Found("warn", f"{path} can't be used: {error}", fix)
    if not os.access(path, os.R_OK):
        return Found("warn", f"{path} may not be read", f"let this user read {path}")
    return ok(f"{path} is there")
