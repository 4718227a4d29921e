"""What a written page holds: its tables as text, its ids and its pictures."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path


class Tables(HTMLParser):
    """Collects every table as {row heading: [cell texts]}, one list for each row with that heading,
    and the ids and images.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[tuple[str, list[str]]]] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.alts: list[str | None] = []
        self.scopes: list[str | None] = []
        self.tags: list[str] = []
        self.cell: list[str] | None = None
        self.heading = ""
        self.kind = ""

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.tags.append(tag)
        self.ids += [known["id"]] if "id" in known else []
        self.references += (known.get("aria-labelledby") or "").split()
        if tag == "img":
            self.alts.append(known.get("alt"))
        if tag == "th":
            self.scopes.append(known.get("scope"))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.heading, self.row = "", []
        if tag in ("td", "th") and self.tables:
            self.cell, self.kind = [], "row" if known.get("scope") == "row" else tag

    def handle_data(self, data):
        if self.cell is not None:
            self.cell.append(data)

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self.cell is not None:
            text = " ".join("".join(self.cell).split())
            if self.kind == "row":
                self.heading = text
            elif tag == "td":
                self.row.append(text)
            self.cell = None
        if tag == "tr" and self.heading:
            self.tables[-1].append((self.heading, self.row))


def parse(report: Path) -> Tables:
    parser = Tables()
    parser.feed((report / "index.html").read_text(encoding="utf-8"))
    return parser
