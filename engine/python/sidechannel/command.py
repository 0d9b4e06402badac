"""The command `sidechannel`, which pip installs: `sidechannel runs ...` is `./run runs` of a clone."""

import runpy
import sys
from pathlib import Path

RUNS = Path(__file__).parent / "figures" / "runs.py"  # experiments/figures, whose modules know each other
USAGE = "usage: sidechannel runs list|show|compare|plot|export ... (see sidechannel runs --help)"


def main():
    if sys.argv[1:2] == ["runs"]:
        del sys.argv[1]
        runpy.run_path(str(RUNS), {"CALLED": "sidechannel runs"}, run_name="__main__")
    wanted = sys.argv[1:2] in (["--help"], ["-h"])
    print(USAGE, file=sys.stdout if wanted else sys.stderr)
    sys.exit(0 if wanted else 2)
