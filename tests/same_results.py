#!/usr/bin/env python3
"""Whether two builds give the same bytes: every figure at the tests' tiny scale, and with --demo what
`./run demo` trains.

usage: tests/same_results.py [--demo] BUILD_A BUILD_B
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Who made a run, and how long it took.
OTHERS = {"commit", "modified", "compiler", "flags", "version", "machine", "processor", "threads",
          "seconds", "milliseconds", "created", "command", "device"}


def results(build, folder, demo):
    bin_folder = Path(build) / "bin"
    subprocess.run([sys.executable, ROOT / "experiments/figures/figures.py", "all", "leak", "--preset",
                    ROOT / "tests/figures/tiny", "--device", "cpu", "--bin", bin_folder, "--out",
                    folder], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for norm in ("instance", "none") if demo else ():
        subprocess.run([bin_folder / "localization", "run", "--preset", "demo", "--norm", norm,
                        "--device", "cpu", "--out", folder / "demo" / norm], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def stable(value):
    if isinstance(value, dict):
        return {key: stable(item) for key, item in value.items() if key not in OTHERS}
    return [stable(item) for item in value] if isinstance(value, list) else value


def content(folder, name):
    path = folder / name
    if path.suffix not in (".json", ".jsonl"):
        return path.read_bytes()
    text = path.read_text().replace(str(folder), "")
    lines = [text] if path.suffix == ".json" else text.splitlines()
    return [stable(json.loads(line)) for line in lines]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("builds", nargs=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / "a", Path(temporary) / "b"]
        for build, folder in zip(options.builds, folders):
            results(build, folder, options.demo)
        # Checkpoints hold when they were written; the page and the logs, seconds.
        names = [{path.relative_to(folder) for path in folder.rglob("*") if path.suffix in
                  (".npy", ".safetensors", ".json", ".jsonl", ".png")
                  and path.name != "seconds.json" and "checkpoint" not in path.name}
                 for folder in folders]
        differ = sorted(str(name) for name in names[0] ^ names[1])
        differ += sorted(str(name) for name in names[0] & names[1]
                         if content(folders[0], name) != content(folders[1], name))
        print(f"{len(names[0] | names[1])} files, {len(differ)} differ")
        for name in differ:
            print(name)
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
