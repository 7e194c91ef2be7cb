"""Pages: escaped, self-contained, and signed by the run that made them."""

import base64
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hilum.page import Html, page, picture, table, tag, text, write_page

RUN = {"code_revision": "abc123", "data_digest": "d" * 64, "recipe_digest": "e" * 64}
VOID = {"meta", "img", "br", "hr", "link", "input"}


class _Reader(HTMLParser):
    """Collects tags with attributes and the text, and insists that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def _read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open
    return reader


def test_a_page_says_what_it_is_who_made_it_and_what_to_beware_of() -> None:
    content = page("Scores", "All is well.", [tag("h2", "Part"), "A plain paragraph."], RUN, "Not real data.")
    reader = _read(content)
    for expected in ("Scores", "All is well.", "A plain paragraph.", "Not real data.", *RUN.values()):
        assert expected in reader.words
    assert "caution" in [attributes.get("class") for _, attributes in reader.tags]
    assert "caution" not in [attributes.get("class") for _, attributes in _read(page("T", "l", [], RUN)).tags]


def test_a_page_asks_nobody_for_anything() -> None:
    content = page("T", "l", [picture(b"png", "c", "a"), table(["a"], [[1]])], RUN)
    reader = _read(content)
    assert not {"script", "link", "iframe"} & {name for name, _ in reader.tags}
    for _, attributes in reader.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "http" not in content
    assert "url(" not in content
    assert "@import" not in content


def test_whatever_enters_a_page_is_escaped() -> None:
    nasty = "<script>alert('x')</script> & \"q\""
    content = page(nasty, nasty, [nasty, tag("p", nasty), table([nasty], [[nasty]])], {"code": nasty}, nasty)
    content += picture(b"", nasty, nasty)
    assert "<script" not in content
    assert nasty in _read(content).words
    assert text(Html("<b>bold</b>")) == "<b>bold</b>"
    assert tag("td", "x", 'a" onclick="y') == '<td class="a&quot; onclick=&quot;y">x</td>'


def test_a_table_has_a_row_for_each_and_sets_numbers_right() -> None:
    reader = _read(table(["name", "auroc"], [["moco", 0.7], [Html("<b>pixels</b>"), 0.6]], numeric=["auroc"]))
    cells = [(name, attributes.get("class")) for name, attributes in reader.tags if name in ("th", "td")]
    assert cells == [("th", None), ("th", "number")] + [("td", None), ("td", "number")] * 2
    assert ("b", {}) in reader.tags
    with pytest.raises(ValueError, match="zip"):
        table(["one", "two"], [["only one"]])


def test_a_picture_is_in_the_page_and_told_to_those_who_cannot_see() -> None:
    (_, attributes) = next(entry for entry in _read(picture(b"\x89PNG", "map", "a map")).tags if entry[0] == "img")
    assert attributes["alt"] == "a map"
    assert base64.b64decode(str(attributes["src"]).removeprefix("data:image/png;base64,")) == b"\x89PNG"


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    write_page(tmp_path / "a.html", "é")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == "é"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.html"]
