import gc
import gzip
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.tokenizer import Scheme, Token, tokenize

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
REFERENCE = SHARED / "data" / "twokenize" / "reference.jsonl.gz"
TWITTER2017 = SHARED / "data" / "mner" / "twitter2017" / "train.txt"

# What the rules care about, so that hypothesis meets them often.
PIECES = st.sampled_from([*"#@'’&:)(^_<3-oaT.,1=D日😀", *" \n\xa0\u2028\0\ud83d", "http://", "www.", ".com", "&amp;"])
POSTS = st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join))


def texts(post: str, scheme: Scheme = Scheme.OWOPUTI) -> list[str]:
    return [token.text for token in tokenize(post, scheme)]


def test_reference() -> None:
    """Every post of the reference is cut exactly as the original tokenizer cut it."""
    if not REFERENCE.exists():
        pytest.skip("the reference tokens are in shared/data/twokenize, which isn't here")
    with gzip.open(REFERENCE, "rt", encoding="utf-8") as lines:
        posts = [json.loads(line) for line in lines]
    wrong = [post["text"] for post in posts if texts(post["text"]) != post["tokens"]]
    assert posts
    assert wrong == []


@pytest.mark.parametrize(
    ("post", "expected"),
    [
        ("see http://a.co/b?c=d. ok", ["see", "http://a.co/b?c=d", ".", "ok"]),
        ("www.x.org... bit.ly/1a!", ["www.x.org", "...", "bit.ly/1a", "!"]),
        ("mail me@x.org, now", ["mail", "me@x.org", ",", "now"]),
        ("at 12:30:05, 1,000,000 or $3.50%", ["at", "12:30:05", ",", "1,000,000", "or", "$3.50%"]),
        ("hi :-) ;P =D (: <3<3", ["hi", ":-)", ";P", "=D", "(:", "<3<3"]),
        ("wow (^_^) o_O T.T >_<", ["wow", "(^_^)", "o_O", "T.T", ">_<"]),
        ("Mr. Smith of the U.S. said U.K", ["Mr.", "Smith", "of", "the", "U.S.", "said", "U.K"]),
        ("I don't 'quote' ’em", ["I", "don't", "'", "quote", "'", "’", "em"]),
        ("(hello (#tag)) [@you]", ["(", "hello", "(", "#tag", "))", "[", "@you", "]"]),
        ("a--b ~ c — d ♥♥ ♫", ["a", "--", "b", "~", "c", "—", "d", "♥♥", "♫"]),
        ("go -> there <== →→", ["go", "->", "there", "<==", "→→"]),
        ("R&amp;B a&lt;b", ["R", "&amp;", "B", "a", "&lt;", "b"]),
        ("what?!? no…", ["what", "?!?", "no", "…"]),
    ],
)
def test_rules(post: str, expected: list[str]) -> None:
    """Each rule of the paper's tokenizer keeps its kind of token whole."""
    assert texts(post) == expected


def test_hash_split_is_the_default() -> None:
    """The paper's scheme splits a hash sign from its word, in any script, and nothing else."""
    post = "#NBA @you #日本 # #1 it's"
    assert [token.text for token in tokenize(post)] == [*("#", "NBA", "@you", "#", "日本", "#", "#", "1", "it's")]
    assert texts(post)[0] == "#NBA"


def test_twitter2017_scheme() -> None:
    """The public set's scheme lets every mark stand alone."""
    assert texts("@MplsDowntown's 1st #NBA-draft, 80,000!! :)", Scheme.TWITTER2017) == [
        *("@", "MplsDowntown", "'", "s", "1", "st", "#", "NBA", "-", "draft", ",", "80,000"),
        *("!", "!", ":)"),
    ]


def test_twitter2017_scheme_keeps_the_tokens_of_the_set() -> None:
    """Cutting the public set's tokens again changes fewer than one token in a thousand."""
    if not TWITTER2017.exists():
        pytest.skip("the Twitter-2017 set is in shared/data/mner, which isn't here")
    lines = TWITTER2017.read_text(encoding="utf-8").split("\n")
    tokens = [line.split("\t")[0] for line in lines if "\t" in line]
    changed = sum(texts(token, Scheme.TWITTER2017) != [token] for token in tokens)
    assert changed < len(tokens) / 1000


@pytest.mark.parametrize("scheme", Scheme)
@given(post=POSTS)
def test_offsets(scheme: Scheme, post: str) -> None:
    """Offsets cut the token's text from any string, in order, and skip nothing visible."""
    done = 0
    for token in tokenize(post, scheme):
        assert done <= token.start < token.end
        assert token.text == post[token.start : token.end]
        assert not any(char > " " and not char.isspace() for char in post[done : token.start])
        done = token.end
    assert not any(char > " " and not char.isspace() for char in post[done:])


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("post", ["", " ", "\n\t\r", "\xa0\u3000", "\u2028\u2029\x85", "\0\x1f"])
def test_nothing_visible(scheme: Scheme, post: str) -> None:
    """A post of whitespace and control characters has no tokens."""
    assert tokenize(post, scheme) == []


def test_odd_characters() -> None:
    """A lone surrogate is a character like others, and offsets count code points."""
    assert tokenize("😀\ud800 b") == [Token("😀\ud800", 0, 2), Token("b", 3, 4)]


# owoputi has the first one's rules but for one.
@pytest.mark.parametrize("scheme", [Scheme.OWOPUTI_HASH_SPLIT, Scheme.TWITTER2017])
@pytest.mark.parametrize(
    "piece",
    [
        *"(<\\1'~.=#日a \0\ud800",
        "a.",
        "www.",
        ":-",
        "a-",
        "a@",
        "1,",
        "a'",
        "&amp;",
        "x--",
        "(^",
        "-_",
    ],
)
def test_linear_time(scheme: Scheme, piece: str) -> None:
    """Four times as long a hostile post costs about four times as much; were it squared, sixteen."""

    def cost(num_characters: int) -> float:
        post = piece * (num_characters // len(piece))
        gc.collect()
        gc.disable()  # a collection of everything that pytest holds would be counted to the post
        try:
            start = time.process_time()
            tokenize(post, scheme)
            return time.process_time() - start
        finally:
            gc.enable()

    cost(1000)  # compiles the patterns
    assert cost(100_000) < 9 * cost(25_000) + 0.05


@given(words=st.lists(st.text(st.characters(exclude_categories=["Z", "C"]), max_size=9), max_size=9))
def test_long_posts_are_cut_as_short_ones(words: list[str]) -> None:
    """The window in which a rule looks is not seen in a post that has spaces."""
    post = " ".join(["the", *words, "end"])
    long = " ".join([post] * 30)
    assert texts(long) == [token for _ in range(30) for token in texts(f" {post} ")]
