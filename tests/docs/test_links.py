"""The check of the site's links finds what is broken, and nothing else; the Python reference is whole."""

import ast
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from blocks import ROOT

GOOD = """<html><head><link rel="stylesheet" href="style.css"><link rel="canonical" href="https://a.org/">
<script src="s.js"></script></head><body id="body"><h2 id="here">x</h2><a name="old"></a>
<a href="#here">1</a> <a href="docs/page.html#there">2</a> <a href="docs/">3</a> <a href="#">4</a>
<a href="https://example.org/x#y">5</a> <a href="docs/a%20b.txt">6</a> <a href="docs/page.html?q=1">7</a>
<img src="data:image/png;base64,AAAA"/> <a href="mailto:a@b.org">8</a> <a href="docs/index.html#up">9</a>
</body></html>"""


class Links(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.site = Path(folder.name) / "site"
        (self.site / "docs").mkdir(parents=True)
        for name, text in (("style.css", "a { b: url(s.js) }"), ("s.js", ""), ("docs/a b.txt", ""),
                           ("docs/page.html", '<p id="there">'), ("docs/index.html", '<a name="up">')):
            (self.site / name).write_text(text)

    def check(self, page):
        (self.site / "index.html").write_text(page)
        return subprocess.run([sys.executable, "-B", ROOT / "docs/site/links.py", self.site],
                              capture_output=True, text=True)

    def test_a_good_site_passes(self):
        result = self.check(GOOD)
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "", ""))

    def test_each_fault_is_named(self):
        for link, words in (('<a href="docs/none.html">', "docs/none.html: no such file"),
                            ('<a href="docs/page.html#h">', "docs/page.html#h: no such anchor"),
                            ('<a href="#none">', "#none: no such anchor"),
                            ('<img src="none.png"/>', "none.png: no such file"),
                            ('<a href="../other/">', "../other/: leads out of the site"),
                            ('<a href="http:/example.org">', "http:/example.org: no address"),
                            ('<a href="//example.org/">', "//example.org/: no address"),
                            ('<script src="https://a.org/x.js">',
                             "https://a.org/x.js: loaded from elsewhere"),
                            ('<link rel="stylesheet" href="https://a.org/x.css">',
                             "https://a.org/x.css: loaded from elsewhere")):
            with self.subTest(link):
                result = self.check(link)
                self.assertEqual((result.returncode, result.stdout), (1, f"index.html: {words}\n"))

    def test_what_a_style_loads_is_looked_at(self):
        for rule, words in (('@import "https://a.org/f";', "https://a.org/f: loaded from elsewhere"),
                            ("@import url(//a.org/f.css);", "//a.org/f.css: loaded from elsewhere"),
                            ("a { b: url('/fonts/f.woff') }", "/fonts/f.woff: leads out of the site"),
                            ("a { b: url(none.png) }", "none.png: no such file")):
            with self.subTest(rule):
                (self.site / "style.css").write_text(rule)
                self.assertEqual(self.check(GOOD).stdout, f"style.css: {words}\n")

    def test_a_folder_that_is_not_there_is_bad_usage(self):
        result = subprocess.run([sys.executable, "-B", ROOT / "docs/site/links.py", self.site / "none"],
                                capture_output=True, text=True)
        self.assertEqual((result.returncode, result.stderr), (2, "usage: links.py FOLDER\n"))


class Reference(unittest.TestCase):
    def test_every_name_of_the_package_is_in_it(self):
        tree = ast.parse((ROOT / "engine/python/sidechannel/__init__.py").read_text())
        names, = [ast.literal_eval(node.value) for node in tree.body
                  if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"]
        page = (ROOT / "docs/site/python.rst").read_text()
        self.assertEqual(sorted(re.findall(r"^\.\. (?:auto\w+|data):: (\w+)$", page, re.MULTILINE)),
                         sorted([*names, "sidechannel"]))


if __name__ == "__main__":
    unittest.main()
