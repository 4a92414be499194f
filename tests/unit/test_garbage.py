"""The collector of cycles at work in a process of its own, for its settings are the process's."""

import subprocess
import sys

CODE = """
import gc, weakref
from worker.garbage import THRESHOLDS, collect_seldom, give_back_memory

class Cycle:
    def __init__(self):
        self.me = self

old = Cycle()
seen = weakref.ref(old)
collect_seldom()
assert gc.get_threshold() == THRESHOLDS
assert gc.get_freeze_count() > 1000
del old
gc.collect()
assert seen() is not None, "nothing was left out of collections"
give_back_memory()
assert seen() is None, "what was replaced stays for ever"
assert gc.get_freeze_count() > 1000
"""


def test_what_was_there_at_the_beginning_is_walked_over_no_more() -> None:
    """Until memory is given back, when a checkpoint's cycles go that were there at first; and then as before."""
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=60)
