"""For Doxygen, which docs/Doxyfile calls with this: comments of headers are docstrings, and a page's
links to others lead to the site's."""

import re
import sys

text = open(sys.argv[1], encoding="utf-8").read()
if sys.argv[1].endswith(".h"):
    # Words that it would take for commands or for tags; then comments before what they are of, and
    # those behind it.
    lines = []
    for line in text.split("\n"):
        code, slashes, comment = line.partition("//")
        if slashes:
            comment = re.sub(r"([\\@<>#])", r"\\\1", comment)
            line = f"{code}///{'<' if code.strip() else ''}{comment}"
        lines.append(line)
    text = "\n".join(lines)
else:
    text = re.sub(r"\]\(([\w-]+)\.md", r"](../docs/\1.html", text)
sys.stdout.write(text)
