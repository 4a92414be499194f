"""One pass of a tokenizer over posts, in a process of its own; prints its seconds.

`python -m tests.benchmarks.tokenizer_pass ours|nltk POSTS.json`, the posts as a list of texts.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Compiles the regular expressions, and has no word of a caption.
WARM_UP = "qxz @qxz #qxz"


def main() -> None:
    """Cut each post once."""
    whose, path = sys.argv[1:]
    posts: list[str] = json.loads(Path(path).read_text())
    cut = _ours() if whose == "ours" else _nltk()
    cut(WARM_UP)
    begun = time.perf_counter()
    for post in posts:
        cut(post)
    print(time.perf_counter() - begun)


def _ours() -> Callable[[str], object]:
    from model.tokenizer import tokenize

    return tokenize


def _nltk() -> Callable[[str], object]:
    from nltk.tokenize import TweetTokenizer

    cut: Callable[[str], object] = TweetTokenizer().tokenize
    return cut


if __name__ == "__main__":
    main()
