"""Tests of experiments/figures/page.py and results.py: the page about all figures."""

import html.parser
import unittest

from figure_test import FigureTest

import figures
import page
import results
import style

ALL = list(figures.FIGURES)
VOID = {"img", "meta"}


class Reader(html.parser.HTMLParser):
    """The text of a page, what it refers to, and whether its tags close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.references, self.ids, self.cells = [], [], [], set(), []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.references += [attributes[key] for key in ("src", "href") if key in attributes]
        if "id" in attributes:
            self.ids.add(attributes["id"])
        if tag == "td":
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)
        if "td" in self.open:
            self.cells[-1] += data

    @property
    def text(self):
        return " ".join("".join(self.texts).split())


class PageTest(FigureTest):
    def result(self, preset, *passes, **how):
        claims = {str(i): {"paper": f"says <{i}>", "criterion": f"share > {i}", "pass": verdict,
                           "ours": None if verdict is None else 0.12345}
                  for i, verdict in enumerate(passes)}
        drawn = [page.Drawn(seed, b"\x89PNG", b"{}", "d.json") for seed in range(how.pop("seeds", 1))]
        return page.Result(preset=preset, claims=claims, drawn=drawn,
                           **{"provenance": [{}], "commands": ["localization run --preset small"],
                              "seconds": [None], "notices": [], **how})

    def write_page(self):
        return results.write_page(self.folder, figures.FIGURES, figures.PRESETS, figures.HEADINGS)

    def test_verdicts(self):
        reader = Reader(page.render([
            page.Section("1", "One & all", "", [self.result("small", True, False, None),
                                                self.result("demo", True, True)]),
            page.Section("3", "Three", "a note", [])], ["small", "demo"]))
        cells = reader.cells
        overview = cells[:6]
        self.assertEqual(overview, ["One & all", "1 of 2", "2 of 2", "Three", "not run", "not run"])
        self.assertEqual(cells[6:18], ["says <0>", "share > 0", "0.123", "pass",
                                       "says <1>", "share > 1", "0.123", "miss",
                                       "says <2>", "share > 2", "-", "-"])
        self.assertIn("Not run yet.", reader.text)

    def test_claims_of_several_seeds(self):
        def claim(ours, verdict):
            return {"paper": "says", "criterion": "share > 0", "ours": ours, "pass": verdict}

        def cells(*claims):
            over = style.over_seeds(dict(enumerate(claims)))
            self.assertEqual(style.read_claims("f", {"claims": {"a": over}}), {"a": over})
            return Reader(page.claims_table({"a": over})).cells[2:]

        # The mean and the range; it holds where it does for each.
        self.assertEqual(cells(claim(0.5, True)), ["0.5", "pass"])
        self.assertEqual(cells(claim(0.5, True), claim(0.7, True)), ["0.6 (0.5 to 0.7)", "pass"])
        self.assertEqual(cells(claim(0, True), claim(0.0, True)), ["0 (each 0)", "pass"])
        self.assertEqual(cells(claim(0.5, True), claim(0.7, True), claim(0.0, False)),
                         ["0.4 (0 to 0.7)", "miss 2 of 3 seeds"])
        self.assertEqual(cells(claim(None, None), claim(None, None)), ["- ", "- 0 of 2 seeds"])
        # A network that is no evidence makes no claim hold, and hides none that fails.
        for first, second, verdict in (
                (claim(0.5, True), claim(None, None), "- 1 of 2 seeds"),
                (claim(None, None), claim(0.5, False), "miss 0 of 2 seeds"),
                (claim(None, False), claim(0.5, True), "miss 1 of 2 seeds")):  # it was to be had
            self.assertEqual(cells(first, second), ["0.5 (each 0.5)", verdict])

    def test_claims_that_make_no_sense(self):
        whole = style.over_seeds({seed: style.claim("says", "share > 0", 0.5, bool)
                                  for seed in (0, 1)})
        for change in ({"seeds": []}, {"seeds": 3}, {"seeds": [3, 4]}, {"seeds": whole["seeds"][:1]},
                       {"seeds": [{"seed": -1, "ours": 1, "pass": True}] * 2},
                       {"seeds": [{"seed": 1, "ours": "x", "pass": True}] * 2},
                       {"seeds": [{"seed": 1, "ours": None, "pass": True}] * 2},
                       {"pass": True, "ours": None}, {"paper": 3}, {"ours": True}):
            with self.subTest(change=change), self.assertRaisesRegex(style.Error, "f: a is "):
                style.read_claims("f", {"claims": {"a": {**whole, **change}}})

    def test_pictures_of_all_seeds(self):
        reader = Reader(page.render([page.Section("1", "One", "", [
            self.result("small", True, seeds=3)])], ["small"]))
        self.assertEqual(sum(r.startswith("data:image/png") for r in reader.references), 3)
        self.assertIn("Preset small, 3 seeds; the picture is of seed 0", reader.text)
        self.assertIn("numbers behind the pictures: seed 0, seed 1, seed 2", reader.text)

    def test_headings_of_groups(self):
        text = page.render([page.Section("1", "One", "", []), *(page.Section(
            key, key.upper(), "", [], "Beyond") for key in "ab")], ["small"])
        Reader(text)
        self.assertEqual(text.count("Beyond"), 2)  # in the overview, and where they stand
        overview, blocks = text.split("</table>")
        for part in (overview, blocks):
            self.assertTrue(part.index("One") < part.index("Beyond") < part.rindex(">A<")
                            < part.rindex(">B<"))

    def test_departures_and_provenance(self):
        config = {"commit": "0123456789abcdef", "modified": True, "compiler": "GNU 12",
                  "device": "cpu", "machine": "Xeon",
                  "settings": {"length": 160, "curriculum_iterations": 40, "curriculum_length": 72,
                               "initial_biases": "zero"}}
        text = Reader(page.render([page.Section("1", "One", "", [
            self.result("small", True, provenance=[config], seconds=[130.0])])], ["small"])).text
        self.assertIn("With a curriculum, which the paper does not have: first 40 steps at length 72",
                      text)
        self.assertIn("With biases of zero at first", text)
        self.assertIn("commit 0123456789ab, with changes that are not committed; GNU 12; cpu; Xeon",
                      text)
        self.assertIn("localization run --preset small (ℓ = 160; 2 min)", text)

    def test_a_network_that_learned_nothing_is_named(self):
        data = {"none": {"notice": "A <learned> nothing"}, "best": [{"notice": None}],
                "cells": [{"notice": "not drawn"}], "points": [{"notice": "B too"}]}
        self.assertEqual(results.notices(data), ["A <learned> nothing", "B too"])
        text = Reader(page.render([page.Section("1", "One", "", [
            self.result("small", True, notices=results.notices(data))])], ["small"])).text
        self.assertIn("A <learned> nothing", text)

    def test_what_makes_no_sense_is_left_out_and_said(self):
        """And nothing else: neither the page nor another figure."""
        folder = self.folder / "tiny"
        for figure in figures.FIGURES.values():
            claim = style.claim("says", f"share > {figure.key}", 0.5, lambda v: v > 0)
            style.write_json(folder / f"figure_{figure.key}.json", {"claims": {"a": claim}})
            style.write_file(folder / f"figure_{figure.key}.png", b"\x89PNG")
        config, summary = (folder / "overlap" / f"{name}.json" for name in ("config", "summary"))
        style.write_json(config, {"settings": {"length": 3}, "commit": "\ud800"})
        style.write_json(summary, {"seconds": 3})
        self.assertEqual(self.write_page(), [])
        whole = Reader((self.folder / "index.html").read_text()).text
        self.assertEqual(whole.count("1 of 1"), len(ALL))
        for file, content, left in (
                (folder / "figure_3.json", {"claims": {"a": {"pass": "yes"}}}, 1),
                (folder / "figure_3.json", {"claims": []}, 1), (folder / "figure_3.json", {}, 1),
                (config, {"settings": []}, 1), (summary, {"seconds": "x"}, 1),
                (summary, {"seconds": -1}, 1),
                (folder / "seconds.json", {"overlap": True}, len(ALL)),
                (folder / "seconds.json", {"overlap": 1e300}, len(ALL))):
            with self.subTest(file=file.name, content=content):
                before = file.read_bytes() if file.exists() else b"{}"
                style.write_json(file, content)
                said, = self.write_page()  # once
                self.assertRegex(said, f"^not on the page: {file}: ")
                text = Reader((self.folder / "index.html").read_text()).text
                self.assertEqual(text.count("1 of 1"), len(ALL) - left)
                file.write_bytes(before)

    def test_numbers(self):
        self.assertEqual([page.number(v) for v in (None, 0.0, 1, 1.0, 0.98765, 123.456, 13.5)],
                         ["-", "0", "1", "1", "0.988", "123.5", "13.5"])
        self.assertEqual([page.duration(v) for v in (None, 3.2, 89, 91, 5000, 7200)],
                         ["not counted", "3 s", "89 s", "2 min", "83 min", "2.0 h"])


if __name__ == "__main__":
    unittest.main()
