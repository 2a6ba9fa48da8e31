"""The site's hooks: links that leave docs/, requests to other hosts, Markdown left over."""

from __future__ import annotations

import pytest

from scripts.site_hooks import page_faults, site_links


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("a.md", "see [b](b.md#c)", "see [b](b.md#c)"),
        ("a.md", "see [b](https://example.org/b)", "see [b](https://example.org/b)"),
        ("a.md", "[reasons](../k8s/x.toml), all", "reasons (`k8s/x.toml`), all"),
        ("a.md", "[`x.toml`](../k8s/x.toml)", "`k8s/x.toml`"),
        ("zh/a.md", "[b](../b.md), [k8s](../../k8s)", "[b](../b.md), `k8s`"),
        ("a.md", "[card](../demo_model/README.md#data)", "[card](demo-model.md#data)"),
        ("zh/a.md", "[news](../../CHANGELOG.md)", "[news](../changelog.md)"),
        ("changelog.md", "[a](docs/a.md#b)", "[a](a.md#b)"),
        (
            "demo-model.md",
            "[a](../docs/a.md), [b](train.py)",
            "[a](a.md), b (`demo_model/train.py`)",
        ),
        ("a.md", "[`[ray]`](../configs/ray.toml)", "`[ray]` (`configs/ray.toml`)"),
        ("a.md", "```\n[a](../b)\n```\n[a](../a)", "```\n[a](../b)\n```\n`a`"),
    ],
)
def test_links_that_leave_docs_become_what_the_site_has(
    page: str, text: str, expected: str
) -> None:
    """Pages for those that are pages there, else the file's name in the repository."""
    assert site_links(text, page) == expected


@pytest.mark.parametrize(
    "html",
    [
        '<link rel="stylesheet" href="https://fonts.example.org/css">',
        '<script src="//cdn.example.org/x.js"></script>',
        '<img alt="x" src="http://example.org/x.png">',
        '<iframe src="HTTPS://example.org"></iframe>',
    ],
)
def test_a_page_that_asks_another_host_is_noticed(html: str) -> None:
    (fault,) = page_faults(html)
    assert fault.startswith("asks another host")


@pytest.mark.parametrize(
    "html",
    [
        "<p>As follows:\n- one</p>",
        "<p>```sh\nmake serve</p>",
        "<p>| a | b |\n|---|---|</p>",
        "<p>see [a] and [b](c.md)</p>",
    ],
)
def test_markdown_that_was_not_understood_is_noticed(html: str) -> None:
    (fault,) = page_faults(html)
    assert fault.startswith("has Markdown left over")


def test_a_sound_page_has_no_faults() -> None:
    """Links that wait for a click may lead anywhere; code may look like Markdown."""
    html = (
        '<link rel="icon" href="images/logo.svg"><a href="https://example.org">there</a>'
        '<link rel="canonical" href="https://example.org/here"><p><b>1. First</b></p>'
        "<p>Take <code>```</code>, or 3 - 1 of them.\nThen <code>- [a](b)</code>.</p>"
    )
    assert not list(page_faults(html))
