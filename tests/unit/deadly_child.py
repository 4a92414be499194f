"""A tagger's process that dies of a post with the word `kills`, and is killed over more than eight with `starves`.

Run by tests in place of `worker.tagger_child`.
"""

import os
import signal
from collections.abc import Sequence

from model.inference import Tagger
from model.tagging import Tagging, TaggingInput
from worker import tagger_child

tag = Tagger.tag


def deadly(self: Tagger, inputs: Sequence[TaggingInput]) -> list[Tagging]:
    """Tag the posts, or die."""
    words = {token.text for post in inputs for token in post.tokens}
    if "kills" in words:
        os.kill(os.getpid(), signal.SIGABRT)
    if "starves" in words and len(inputs) > 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return tag(self, inputs)


if __name__ == "__main__":
    Tagger.tag = deadly  # type: ignore[method-assign]
    tagger_child.main()
