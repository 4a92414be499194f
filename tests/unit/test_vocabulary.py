"""Words by number: a form of the word that is known, or its class."""

import pytest

from model.vocabulary import UNKNOWN, Vocabulary, forms


@pytest.mark.parametrize(
    ("token", "known"),
    [
        ("Rome", "rome"),
        ("#Rome", "rome"),
        ("Rome's", "rome"),
        ("Rome’s", "rome"),
        ("*rome*", "rome"),
        ("soooooo", "so"),
        ("coooool", "cool"),
        ("https://t.co/x", "<url>"),
        ("URL445", "<url>"),
        ("@somebody", "<user>"),
        ("12:30", "00:00"),
        ("#", "#"),
        ("@", "@"),
        ("'s", "'s"),
    ],
)
def test_forms(token: str, known: str) -> None:
    """A token is looked up under the form that the vocabulary knows."""
    vocabulary = Vocabulary(words=("other", known), characters="")
    assert vocabulary.word(token) == 3
    assert vocabulary.word("unheard") == UNKNOWN
    assert known in forms(token)


def test_the_first_form_wins() -> None:
    """A word that is known as it is isn't replaced by another form of it."""
    vocabulary = Vocabulary(words=("#rome", "rome"), characters="")
    assert (vocabulary.word("#rome"), vocabulary.word("#ROME")) == (2, 2)


def test_rows() -> None:
    """All known words have rows, and of the others those that no known word stands for, by their class."""
    vocabulary = Vocabulary.of([["Rome", "#Rome", "Zorp", "@a", "@b", "http://x", "7:15"]], known={"rome", "the"})
    assert vocabulary.words == ("0:00", "<url>", "<user>", "rome", "the", "zorp")
    assert vocabulary.num_words == 8
