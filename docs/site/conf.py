"""The documentation as a site, by Sphinx: `./run docs` writes build/docs/html.

Its pages are README.md, docs/*.md and their like as they stand, for a forge shows them too: links are
relative, and to files that are no page the site has a copy of the file. What only a site can have is
here: the order of the pages, the front of the C++ reference, which Doxygen writes beside it, and the
Python reference, of docstrings.
"""

import ast
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build/docs"
PACKAGE = ROOT / "engine/python/sidechannel"

project = "sidechannel"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "docs/site/*.rst", "tests/*/README.md"]
exclude_patterns = [".*", "build", "build-*", "runs"]
smartquotes = False  # "--" is a flag's
highlight_language = "text"
default_role = "code"
myst_heading_anchors = 4

html_theme = "furo"
html_title = "sidechannel"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False

autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_docstring_signature = False
autodoc_default_options = {"members": True, "undoc-members": True, "special-members": "__call__"}
autodoc_mock_imports = ["numpy", "torch"]

# Every page but the first. Sphinx warns, which is an error here, of one that is missing.
PAGES = {
    "Begin": ["docs/installing", "docs/first-steps", "From Python <docs/python>", "docs/from-pytorch",
              "What networks hear <docs/leak>"],
    "Build on it": ["As a library <docs/library>", "docs/adding-an-operation", "docs/write-an-experiment",
                    "Runs <docs/runs>", "Sweeps and clusters <docs/cluster>"],
    "Reference": ["docs/cli", "docs/site/python", "docs/site/cpp"],
    "Inside": ["A step <docs/a-step>", "The kernels <docs/kernels>", "docs/numerics", "docs/performance",
               "Testing <docs/testing>", "tests/emulator/README", "Mutants <tests/mutants/README>",
               "tests/golden/README"],
    "The paper": ["docs/paper", "docs/reproducing"],
    "The project": ["CONTRIBUTING", "CHANGELOG"],
}


def navigation():
    lines = []
    for caption, pages in PAGES.items():
        lines += ["", "```{toctree}", f":caption: {caption}", ":hidden:", ""]
        lines += [page.replace("<", "</") if "<" in page else f"/{page}" for page in pages]
        lines += ["```"]
    return "\n".join(lines) + "\n"


def stub():
    """What a build of the Python package said of its compiled module: the newest, or None."""
    stubs = [*ROOT.glob("build/*/engine/python/sidechannel/_core.pyi"),
             *ROOT.glob("build/venv/lib/python3*/site-packages/sidechannel/_core.pyi")]
    return max(stubs, key=lambda path: path.stat().st_mtime, default=None)


def write_package(folder, core):
    """The package in plain Python, for autodoc to read: nothing compiled is loaded, so that it does
    not matter for which Python it was built."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text()))
    (folder / "__init__.py").write_text(f"{words!r}\nfrom __future__ import annotations\n"
                                        f"{core.read_text()}\nfrom .runs import Run\n")
    (folder / "_core.py").write_text("from . import *\n")
    for name in ("runs.py", "torch.py"):
        shutil.copy(PACKAGE / name, folder)


def read_source(app, name, source):
    if name == root_doc:
        source[0] += navigation()
    elif name == "docs/site/python" and stub() is None:
        print("SKIPPED: the Python reference (no package was built: pip install . or "
              "-D SIDECHANNEL_PYTHON=ON)")
        source[0] = source[0].partition(".. ")[0] + (
            "Not in this build of the site: it is made of what a build of the package leaves, in "
            "``build/venv`` or with ``-D SIDECHANNEL_PYTHON=ON``.\n")


def read_docstring(app, what, name, object, options, lines):
    """Indented lines behind a paragraph are code."""
    text = re.sub(r"(?m)^(\S.*)\n\n(?=    )", r"\1\n\n::\n\n", "\n".join(lines))
    lines[:] = text.split("\n")


def finish(app, error):
    """A site begins with index.html, and a sheet that Debian's Furo takes from a path of its web servers
    is put into it."""
    out = Path(app.outdir)
    if error:
        return
    shutil.copy(out / f"{root_doc}.html", out / "index.html")
    sheet = out / "_static/styles/furo.css"
    sheet.write_text(re.sub(r"@import url\((/javascript/[\w./-]+)\);",
                            lambda found: Path(f"/usr/share{found[1]}").read_text(), sheet.read_text()))


def setup(app):
    if stub():
        write_package(BUILT / "python/sidechannel", stub())
        sys.path.insert(0, str(BUILT / "python"))
    app.connect("source-read", read_source)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("build-finished", finish)
