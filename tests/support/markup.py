"""What tests read out of a page: its links, its texts, and its elements without what is written in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

import requests

VOID = {"br", "img", "input", "link", "meta"}


@dataclass(eq=False)
class Element:
    tag: str
    attributes: dict[str, str]
    parent: Element | None = None
    children: list[Element | str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()

    @property
    def text(self) -> str:
        """All that is written in it."""
        return "".join(each if isinstance(each, str) else each.text for each in self.children)

    @property
    def words(self) -> str:
        """The text as a reader sees it, with single blanks."""
        return " ".join(self.text.split())

    def all(self, tag: str = "", class_name: str = "") -> list[Element]:
        """The elements in it, in order, of a tag and a class if they are named."""
        found: list[Element] = []
        for each in self.children:
            if isinstance(each, Element):
                if tag in ("", each.tag) and (not class_name or class_name in each.classes):
                    found.append(each)
                found += each.all(tag, class_name)
        return found

    def shape(self) -> list[tuple[str, list[str]]]:
        """Its elements with the names of their attributes."""
        return [(each.tag, sorted(each.attributes)) for each in self.all()]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.place = Element("", {})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, self.place)
        self.place.children.append(element)
        if tag not in VOID:
            self.place = element

    def handle_endtag(self, tag: str) -> None:
        assert self.place.tag == tag and self.place.parent is not None, f"{tag} ends within {self.place.tag}"
        self.place = self.place.parent

    def handle_data(self, data: str) -> None:
        self.place.children.append(data)


def read(page: str) -> Element:
    """The whole page; fails if an element is not closed where it should be."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.place.tag == "", f"{reader.place.tag} is not closed"
    return reader.place


def open_page(url: str, **query: str) -> Element:
    answer = requests.get(url, params=query, timeout=60)
    assert answer.status_code == 200, f"{answer.url}: {answer.status_code}"
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    return read(answer.content.decode("utf-8"))
