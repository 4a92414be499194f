"""A checkpoint written to a full disk: a clear error, the old file whole, nothing left behind."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

# Run inside a mount namespace of its own, where the folder is a file system of 512 kB.
ON_A_FULL_DISK = """
import sys
from dataclasses import replace
from pathlib import Path

import torch

from model.checkpoint import Checkpoint, load, save
from model.errors import OutputError
from model.labels import LabelSet
from model.tagger import NameTagger, TaggerConfig
from model.tokenizer import Scheme
from model.vocabulary import Vocabulary

torch.set_num_threads(1)
labels, vocabulary = LabelSet.of_types(("PER",)), Vocabulary.of((("Ann", "met", "Bob"),))


def checkpoint(hidden):
    config = TaggerConfig(variant="blstm_crf", hidden=hidden, word_size=3, region_width=5, visual_size=3)
    network = NameTagger(config, labels, vocabulary.num_words, vocabulary.num_characters)
    return Checkpoint(
        config=config, labels=labels, vocabulary=vocabulary, scheme=Scheme.TWITTER2017, tower="t",
        tower_digest="d", state=network.state_dict(),
    )


path = Path(sys.argv[1]) / "checkpoint.safetensors"
identity = save(checkpoint(4), path)
before = path.read_bytes()
try:
    save(checkpoint(300), path)
except OutputError as error:
    assert "No space left on device" in str(error)
else:
    raise AssertionError("it fitted: the test's disk is too large")
assert path.read_bytes() == before
assert load(path)[1] == identity
assert list(path.parent.iterdir()) == [path]
assert save(replace(checkpoint(4), notes={"seed": 1}), path) != identity  # there is room again
print("survived")
"""


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    """`save` fails with the system's own words; the old checkpoint loads, and its room is given back."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(ON_A_FULL_DISK), encoding="utf-8")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = 'mount -t tmpfs -o size=512k tmpfs "$1" || exit 77; shift; exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", folder, sys.executable, script, folder]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=REPOSITORY)
    except FileNotFoundError:
        pytest.skip("there is no unshare on this machine")
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"a file system of a test's own can't be mounted here: {done.stderr.strip()[:200]}")
    assert done.stdout == "survived\n", done.stderr[-2000:]
