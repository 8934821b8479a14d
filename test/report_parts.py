#!/usr/bin/env python3
"""Checks one part of a page of scripts/report.py: report_parts.py PAGE PART ARGUMENTS... (test/report.sh)."""
import html.parser
import json
import pathlib
import re
import sys

VOID = {"meta", "input", "br", "line", "polyline", "circle", "link", "img", "wbr"}


class Page(html.parser.HTMLParser):
    """Sections with their text, their figures' captions and curves; every address and unclosed tag."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sections, self.addresses, self.wrong = [], {}, [], []
        self.data, self.section, self.figure, self.ids = "", None, None, set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.addresses += [attributes[key] for key in ("src", "href") if key in attributes]
        self.ids.add(attributes.get("id"))
        if tag not in VOID:
            self.open.append((tag, attributes.get("id")))
        if tag == "section":
            self.section = self.sections.setdefault(attributes["id"], {"text": "", "figures": []})
        elif tag == "figure":
            self.figure = {"text": "", "curves": 0}
            self.section["figures"].append(self.figure)
        elif tag == "polyline" and "curve" in attributes.get("class", ""):
            numbers = re.findall(r"-?[\d.]+", attributes["points"])
            if all(-1 <= float(n) <= 421 for n in numbers):
                self.figure["curves"] += 1

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open[-1][0] != tag:
            self.wrong.append(f"</{tag}> inside {self.open[-3:]}")
            return
        self.open.pop()
        if tag == "section":
            self.section = None
        elif tag == "figure":
            self.figure = None

    def handle_data(self, data):
        if self.open and self.open[-1] == ("script", "data"):
            self.data += data
        if self.section is not None:
            self.section["text"] += data
        if self.figure is not None:
            self.figure["text"] += data


def main():
    page = Page(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    part, arguments = sys.argv[2], sys.argv[3:]
    if part == "whole":
        outside = [a for a in page.addresses if not a.startswith("#")]
        return not page.open and not page.wrong and not outside and {"find", "verdict", "list"} <= page.ids
    if part == "sections":
        return set(arguments) <= set(page.sections)
    if part == "figures":
        section, curves, titles = arguments[0], int(arguments[1]), arguments[2:]
        figures = page.sections[section]["figures"]
        return all(any(f["text"].startswith(title) and f["curves"] >= curves for f in figures) for title in titles)
    if part == "text":
        return all(word in page.sections[arguments[0]]["text"] for word in arguments[1:])
    if part == "table":
        text = page.sections["stages"]["text"]
        rows = [json.loads(line) for line in open(arguments[0], encoding="utf-8")]
        values = [row[key] for row in rows if row["kind"] == "eval" for key in ("val_ce", "avg", "val_entropy")]
        return len(values) == 9 and all(f"{value:.4g}" in text for value in values)
    if part == "samples":
        shown = [s for s in json.loads(page.data)["samples"] if s["run"] == 0]
        lines = [json.loads(line) for path in pathlib.Path(arguments[0]).glob("*.jsonl") for line in open(path)]
        known = {(line.get("prompt"), line.get("response"), line.get("right")) for line in lines}
        same = all((s["prompt"], s["response"], s["right"]) in known for s in shown)
        hostile = any(s["prompt"] == "</script>@DATA@" for s in shown)
        return len(shown) > 100 and same and hostile and {"right", "wrong"} == {
            "right" if s["right"] else "wrong" for s in shown}
    raise SystemExit(f"no part {part}")


if __name__ == "__main__":
    sys.exit(not main())
