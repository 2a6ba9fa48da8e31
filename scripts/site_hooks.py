"""What the site needs beside mkdocs.yml, which names this file under `hooks`.

The pages are written to be read in the checkout, too, so they link to files outside of docs/. Two
of those are pages here; of the others the site has only the name, since there is no address to link
to. Every built page is then held against two promises: it makes no request to another host, and no
Markdown is left over that Python-Markdown reads in another way than GitHub does. A broken promise
is a warning, which ends a strict build.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.hooks.site")

ROOT = Path(__file__).resolve().parent.parent
ADDED = {"changelog.md": "CHANGELOG.md", "demo-model.md": "demo_model/README.md"}
"""Page of the site → its file outside of docs/."""
_PAGE_OF = {source: page for page, source in ADDED.items()}

_FENCED = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[((?:[^][]|\[[^]]*\])*)\]\((?![a-z]+:)([^)#\s]+)(#[^)\s]*)?\)")
_MARKDOWN = re.compile(r"```|\]\(|\*\*\w|(?:^|\n)\s*(?:#+ |\|)|\n\s*(?:[-*] |1\. )")
_FETCHED = re.compile(r"(?:https?:)?//", re.IGNORECASE)
_CSS = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^)\"']+)", re.IGNORECASE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    from mkdocs.structure.files import File

    for page, source in ADDED.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    return site_links(markdown, page.file.src_uri)


def on_post_build(config: MkDocsConfig) -> None:
    site = Path(config.site_dir)
    for path in sorted(site.rglob("*.html")):
        for fault in page_faults(path.read_text()):
            log.warning("%s: %s", path.relative_to(site), fault)
    for path in sorted(site.rglob("*.css")):
        for url in _CSS.findall(path.read_text()):
            log.warning("%s: asks another host: %s", path.relative_to(site), url)


def site_links(markdown: str, page: str) -> str:
    """A page's text with the links that leave docs/ turned into what the site has."""
    source = ADDED.get(page, f"docs/{page}")

    def rewritten(found: re.Match[str]) -> str:
        text, link, anchor = found[1], found[2], found[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        inside = target.startswith("docs/")
        if inside and page not in ADDED:
            return found[0]
        there = target.removeprefix("docs/") if inside else _PAGE_OF.get(target)
        if there is None:
            named = target.endswith(text.strip("`/"))
            return f"`{target}`" if named else f"{text} (`{target}`)"
        return f"[{text}]({posixpath.relpath(there, posixpath.dirname(page) or '.')}{anchor})"

    parts = _FENCED.split(markdown)
    return "".join(
        part if position % 2 else _LINK.sub(rewritten, part) for position, part in enumerate(parts)
    )


def page_faults(html: str) -> Iterator[str]:
    """What is wrong with a built page, in words."""
    parser = _Reader()
    parser.feed(html)
    for url in parser.fetched:
        yield f"asks another host: {url}"
    for text in parser.texts:
        if _MARKDOWN.search(text):
            yield f"has Markdown left over: {' '.join(text.split())[:80]!r}"


class _Reader(HTMLParser):
    """Collects what a browser would fetch from elsewhere, and the text of paragraphs."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.texts: list[str] = []
        self._in_paragraph = self._in_code = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag != "a" and ("rel", "canonical") not in attributes:
            urls = [value or "" for name, value in attributes if name in _FETCHING]
            self.fetched += [url for url in urls if _FETCHED.match(url.strip())]
        if tag == "p":
            self._in_paragraph = True
            self.texts.append("")
        self._in_code = self._in_code or tag == "code"

    def handle_endtag(self, tag: str) -> None:
        self._in_paragraph = self._in_paragraph and tag != "p"
        self._in_code = self._in_code and tag != "code"

    def handle_data(self, data: str) -> None:
        if self._in_paragraph:
            self.texts[-1] += "" if self._in_code else data


_FETCHING = ("src", "srcset", "href", "data", "poster", "action")
"""Attributes whose address a browser asks by itself; an `a` waits for a click."""
