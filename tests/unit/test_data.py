import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from model.data import ImageFolder, Sentence, read_conll
from model.errors import DataError, ModelError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
MNER = SHARED / "data" / "mner"

Write = Callable[[str | bytes], Path]

POSTS = "IMGID:1\nRT\tO\nRome\tI-LOC\n\nIMGID:O_2\nDisney\tB-OTHER\nLand\tI-OTHER\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(content: str | bytes) -> Path:
        path = tmp_path / "train.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return _write


def test_read(write: Write) -> None:
    """Posts keep their image, their tags as written, and the repaired and renamed ones."""
    dataset = read_conll(write(POSTS))
    assert dataset.sentences == (
        Sentence(("RT", "Rome"), ("O", "B-LOC"), ("O", "I-LOC"), "1"),
        Sentence(("Disney", "Land"), ("B-MISC", "I-MISC"), ("B-OTHER", "I-OTHER"), "O_2"),
    )
    assert dataset.num_repairs == 1
    assert dataset.digest == hashlib.sha256(POSTS.encode()).hexdigest()
    assert dataset.name == "train.txt"
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.sentences[0].image_id = None  # type: ignore[misc]


def test_other_names(write: Write) -> None:
    """Types are renamed as the caller says."""
    assert read_conll(write(POSTS), rename={}).sentences[1].tags == ("B-OTHER", "I-OTHER")


def test_line_ends(write: Write) -> None:
    """Windows line ends, a byte order mark and blank lines of tabs make no difference."""
    windows = b"\xef\xbb\xbf" + POSTS.replace("\n\n", "\n \t\n").replace("\n", "\r\n").encode()
    assert read_conll(write(windows)).sentences == read_conll(write(POSTS)).sentences


def test_without_images(write: Write) -> None:
    """Blank lines alone separate posts, and such posts have no image."""
    sentences = read_conll(write("a\tO\n\n\nb\tx\tO")).sentences
    assert [(s.tokens, s.image_id) for s in sentences] == [(("a",), None), (("b",), None)]


def test_lost_tokens(write: Write) -> None:
    """A line outside names whose token was lost is left out."""
    assert read_conll(write("a\tO\n\tO\nb\tO\n")).sentences[0].tokens == ("a", "b")


def test_odd_tokens(write: Write) -> None:
    """A line separator of Unicode is a token, not a line's end."""
    assert read_conll(write("\u2028\tO\n\x85\tO\n")).sentences[0].tokens == ("\u2028", "\x85")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no labelled post"),
        ("a\tO\nb\n", "line 2: needs a token, a tab and a tag, got 'b'"),
        ("a\tO\n\tB-PER\n", "line 2: needs a token"),
        ("a\tO\n\nb\tPER\n", "line 3: 'PER' is not an IOB2 tag"),
        (b"a\tO\n\xff\tO\n", "line 2: is not UTF-8"),
        ("IMGID:\na\tO\n", "line 1: IMGID: names no image"),
        ("IMGID:1\n\nIMGID:2\na\tO\n", "line 1: IMGID: without a post"),
        ("a\tO\nIMGID:1\n", "line 2: IMGID: without a post"),
    ],
)
def test_errors_name_the_place(write: Write, content: str | bytes, message: str) -> None:
    """Every error says which file and line is at fault."""
    with pytest.raises(DataError) as error:
        read_conll(write(content))
    assert "train.txt" in str(error.value)
    assert message in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    """A file that isn't there is an error of the model's own tree."""
    with pytest.raises(ModelError, match=r"none\.txt: can't be read"):
        read_conll(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("name", "posts", "repairs"),
    [
        ("twitter2015/train.txt", 4000, 186),
        ("twitter2015/valid.txt", 1000, 53),
        ("twitter2017/train.txt", 3373, 0),
        ("twitter2017/valid.txt", 723, 0),
    ],
)
def test_public_sets(name: str, posts: int, repairs: int) -> None:
    """The public sets are read whole, with four types and the known number of repairs."""
    if not (MNER / name).exists():
        pytest.skip("the public sets are in shared/data/mner, which isn't here")
    dataset = read_conll(MNER / name)
    assert (len(dataset.sentences), dataset.num_repairs) == (posts, repairs)
    tags = {tag for sentence in dataset.sentences for tag in sentence.tags}
    assert {tag[2:] for tag in tags} == {"", "PER", "LOC", "ORG", "MISC"}


def test_public_images() -> None:
    """Every post of the subset with images finds its own."""
    subset = MNER / "tweet_images_subset"
    if not subset.exists():
        pytest.skip("the images are in shared/data/mner/tweet_images_subset, which isn't here")
    images = ImageFolder(subset / "images")
    for name in ("twitter2015_subset.txt", "twitter2017_subset.txt"):
        for sentence in read_conll(subset / name).sentences:
            assert sentence.image_id is not None
            assert images.find(sentence.image_id) is not None


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "gif", "JPG"])
def test_find(tmp_path: Path, suffix: str) -> None:
    """An image is found by its id, whichever of the usual suffixes it has."""
    file = tmp_path / f"17_06_1.{suffix}"
    file.touch()
    assert ImageFolder(tmp_path).find("17_06_1") == file.resolve()
    assert ImageFolder(tmp_path).find("17_06") is None


@pytest.mark.parametrize("image_id", ["", ".", "..", "../secret", "/secret", "a/../../secret", "link", "\0", "\ud800"])
def test_find_stays_inside(tmp_path: Path, image_id: str) -> None:
    """No id leads out of the folder, not even through a link, and none makes it fail."""
    (tmp_path / "secret.jpg").touch()
    images = tmp_path / "images"
    images.mkdir()
    (images / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    assert ImageFolder(images).find(image_id) is None
    assert ImageFolder(images).find("x" * 5000) is None


def test_no_folder(tmp_path: Path) -> None:
    """A folder that isn't there is an error at once, not at the first image."""
    with pytest.raises(DataError, match="is not a folder of images"):
        ImageFolder(tmp_path / "none")
