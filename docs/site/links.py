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
STYLES = re.compile(r"""(?:url\(|@import\s)\s*["']?((?:https?:)?//[^"')\s]+)""")


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.anchors, self.loads, self.leads = {"", "top"}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors.add(values.get("id"))
        if tag == "a":
            self.anchors.add(values.get("name"))
        for name, value in attributes:
            if value and (tag, name) in LOADS and values.get("rel") != "canonical":
                self.loads.append(value)
            elif value and (tag, name) in LEADS:
                self.leads.append(value)

    handle_startendtag = handle_starttag


def fault_elsewhere(url):
    """Of a link to elsewhere, what is wrong with its form; None where nothing is."""
    parts = urlsplit(url)
    if parts.scheme in ("mailto", "data", "javascript"):
        return None
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[\w.-]+\.\w+(:\d+)?", parts.netloc):
        return "no address"
    return None


def faults(folder):
    """(page, link, what is wrong) of a folder of pages."""
    folder = folder.resolve()
    pages = {path: Page(path.read_text(encoding="utf-8", errors="replace"))
             for path in sorted(folder.rglob("*.html"))}
    for path, page in pages.items():
        for url in dict.fromkeys(page.loads + page.leads):
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                wrong = fault_elsewhere(url) if parts.scheme else "no address"
                if wrong is None and url in page.loads and parts.scheme != "data":
                    wrong = "loaded from elsewhere"
            else:
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                if target.is_dir():
                    target /= "index.html"
                if folder not in target.parents:
                    wrong = "leads out of the site"
                elif not target.is_file():
                    wrong = "no such file"
                elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                    wrong = "no such anchor"
                else:
                    wrong = None
            if wrong:
                yield path.relative_to(folder), url, wrong
    for path in sorted(folder.rglob("*.css")):
        for url in STYLES.findall(path.read_text(encoding="utf-8", errors="replace")):
            yield path.relative_to(folder), url, "loaded from elsewhere"


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
