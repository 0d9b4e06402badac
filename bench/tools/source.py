"""Which commit the sources are of, for what is measured of them."""

import os
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def commit(root=ROOT):
    """Of the sources' own checkout, or of the archive that they came in; "" where nobody knows. A
    repository around them, or one that the environment names, has nothing to say."""
    if (root / ".git").exists():
        local = {f"GIT_{name}" for name in ("DIR", "WORK_TREE", "INDEX_FILE", "OBJECT_DIRECTORY",
                                            "COMMON_DIR", "NAMESPACE")}
        environment = {name: os.environ[name] for name in os.environ.keys() - local}
        try:
            done = subprocess.run(
                ["git", "-c", "core.fsmonitor=false", f"--git-dir={root / '.git'}",
                 f"--work-tree={root}", "describe", "--always", "--dirty"],
                cwd=root, env=environment, capture_output=True, text=True, check=False)
        except OSError:
            return ""
        return done.stdout.strip()
    archive = root / ".git_archival.txt"
    node = re.search("^node: ([0-9a-f]+)$", archive.read_text(), re.M) if archive.exists() else None
    return node[1][:7] if node else ""
