"""A tagger's process that dies of a post with the word `kills`; run by tests in place of `worker.tagger_child`."""

import os
import signal
from collections.abc import Sequence

from model.inference import Tagger
from model.tagging import Tagging, TaggingInput
from worker import tagger_child

tag = Tagger.tag


def deadly(self: Tagger, inputs: Sequence[TaggingInput]) -> list[Tagging]:
    """Tag the posts, or die."""
    if any(token.text == "kills" for post in inputs for token in post.tokens):
        os.kill(os.getpid(), signal.SIGABRT)
    return tag(self, inputs)


if __name__ == "__main__":
    Tagger.tag = deadly  # type: ignore[method-assign]
    tagger_child.main()
