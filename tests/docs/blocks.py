"""The blocks of code in the documents."""

import dataclasses
import os
import re
import textwrap
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md",
         *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]


@dataclasses.dataclass(frozen=True)
class Block:
    page: str
    line: int  # of its first line
    language: str
    code: str

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks():
    for page in PAGES:
        text = (ROOT / page).read_text()
        found = list(re.finditer(r"^( *)```([^\n`]*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL))
        if len(re.findall(r"^\s*```", text, re.MULTILINE)) != 2 * len(found):
            raise AssertionError(f"{page}: fences that begin or end no block")
        for block in found:
            line = text.count("\n", 0, block.start(3)) + 1
            yield Block(page, line, block[2], textwrap.dedent(block[3]))


def folder_of(variable):
    """A folder that the environment names, of a build."""
    if not os.environ.get(variable):
        raise unittest.SkipTest(f"{variable} does not say where a build is")
    return Path(os.environ[variable])
