"""Node, for tests that read nametag's messages with another language's eyes; missing, it fails CI and skips at home."""

import shutil
import subprocess
from pathlib import Path

from tests.native import give_up

PACKAGES = Path(__file__).parents[1] / ".node" / "node_modules"
"""Where `make services` installs packages; git ignores it."""


def run_node(script: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a script to its end, within a minute."""
    node = shutil.which("node")
    if node is None:
        give_up("no Node here: `make services` installs it")
    return subprocess.run([node, str(script), *arguments], input=stdin, capture_output=True, timeout=60, check=False)


def package(name: str) -> Path:
    """The folder of a package from npm."""
    folder = PACKAGES / name
    if not (folder / "package.json").is_file():
        give_up(f"the npm package {name} isn't in .node: `make services` installs it")
    return folder
