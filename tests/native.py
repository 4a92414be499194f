"""The native services, for tests that start their own."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest


def native_services() -> ModuleType:
    """`deploy/native/services.py`, loaded by its path: deploy/ is no package."""
    path = Path(__file__).parents[1] / "deploy" / "native" / "services.py"
    spec = importlib.util.spec_from_file_location("nametag_native_services", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def give_up(reason: str) -> NoReturn:
    line = " ".join(reason.split())[:400]
    if os.environ.get("CI") == "true":
        pytest.fail(line, pytrace=False)
    pytest.skip(line)
