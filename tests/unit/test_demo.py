"""What a person waits for before the demo shows that it works."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("worker.demo", ("torch", "timm", "aiohttp")),
        ("worker.service", ("timm", "torchvision", "torch._dynamo")),
    ],
)
def test_what_is_slow_is_imported_late(module: str, absent: tuple[str, ...]) -> None:
    """The demo's bar comes before torch; the networks' packages come when a tower is built."""
    code = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_small_tower_needs_neither_timm_nor_torchvision() -> None:
    """They take longer to import than the tower takes to load."""
    code = "import sys; from model.tower import build_tower; build_tower('efficientnet_lite0'); "
    code += "print([name for name in ('timm', 'torchvision') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
