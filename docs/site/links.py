#!/usr/bin/env python3
"""Checks every link of the built site: that the file is there and has the anchor.

usage: links.py FOLDER

Links to elsewhere are looked at for their form alone. Pictures, scripts and styles from elsewhere are
faults: the site works offline. Prints a line for each fault, and exits with 1 where there is one.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a page loads, and what it leads to.
LOADS = {("img", "src"), ("script", "src"), ("source", "src"), ("iframe", "src"), ("link", "href")}
LEADS = {("a", "href"), ("area", "href")}
# Doxygen 1.9 leads from a class to its nested ones where all of these are private.
DOXYGENS = ("cpp", "#nested-classes")
STYLES = re.compile(r"""(?:url\(|@import\s+(?!url))\s*(?:"([^"]+)"|'([^']+)'|([^"'()\s]+))""")


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.anchors, self.links = {"", "top"}, []  # links: whether what they name is loaded, too
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors.add(values.get("id"))
        if tag == "a":
            self.anchors.add(values.get("name"))
        for name, value in attributes:
            if value and (tag, name) in LOADS and values.get("rel") != "canonical":
                self.links.append((value, True))
            elif value and (tag, name) in LEADS:
                self.links.append((value, False))

    handle_startendtag = handle_starttag


def fault_elsewhere(url):
    """Of a link to elsewhere, what is wrong with its form; None where nothing is."""
    parts = urlsplit(url)
    if parts.scheme in ("mailto", "data", "javascript"):
        return None
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[\w.-]+\.\w+(:\d+)?", parts.netloc):
        return "no address"
    return None


def fault(folder, pages, path, url, loaded):
    """What is wrong with a link of the file `path`; None where nothing is."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        if loaded and (parts.netloc or parts.scheme.startswith("http")):
            return "loaded from elsewhere"
        return fault_elsewhere(url) if parts.scheme else "no address"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if folder not in target.parents:
        return "leads out of the site"
    if not target.is_file():
        return "no such file"
    if target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return None if (path.parent.name, url) == DOXYGENS else "no such anchor"
    return None


def faults(folder):
    """(page, link, what is wrong) of a folder of pages."""
    folder = folder.resolve()
    texts = {path: path.read_text(encoding="utf-8", errors="replace")
             for ending in ("html", "css") for path in sorted(folder.rglob(f"*.{ending}"))}
    pages = {path: Page(text) for path, text in texts.items() if path.suffix == ".html"}
    for path, text in texts.items():
        if path in pages:
            links = pages[path].links
        else:
            links = [("".join(url), True) for url in STYLES.findall(text)]
        for url, loaded in dict.fromkeys(links):
            wrong = fault(folder, pages, path, url, loaded)
            if wrong:
                yield path.relative_to(folder), url, wrong


def main(arguments):
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: links.py FOLDER", file=sys.stderr)
        return 2
    found = list(faults(Path(arguments[0])))
    for page, url, wrong in found:
        print(f"{page}: {url}: {wrong}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
