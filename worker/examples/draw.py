"""Draws the README's picture of the demo: `make picture`, after a change of what the demo prints."""

import asyncio
import io
import re
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from worker.demo import run_demo
from worker.settings_loading import load_settings

PICTURE = Path(__file__).resolve().with_name("demo.svg")

# Without the fonts that rich's own frame loads from another host.
_FRAME = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def main() -> None:
    """Run the demo and write what it printed as an SVG."""
    console = Console(record=True, file=io.StringIO(), width=118, force_terminal=False, color_system="truecolor")
    with TemporaryDirectory() as folder, chdir(folder):
        asyncio.run(run_demo(Path("demo-out"), load_settings(), console))
    printed = console.export_svg(title="make demo", code_format=_FRAME, unique_id="demo")
    PICTURE.write_text(printed, encoding="utf-8")


if __name__ == "__main__":
    main()
