"""Names of containers match by token."""

from __future__ import annotations

import pytest

from pipelines import boilerplate, tags


@pytest.mark.parametrize(
    ("classes", "identity", "expected"),
    [
        ("sidebar", "", True), ("main-menu", "", True), ("mainMenu", "", True), ("", "cookieBanner", True),
        ("post RelatedPosts", "", True), ("td_social_share", "", True), ("newsletter-signup", "", True),
        ("site-footer", "", True), ("you-might-like", "", True), ("sr-only", "", True),
        ("update", "", False), ("date", "", False), ("navy", "", False), ("has-sidebar", "", False),
        ("no-sidebar content", "", False), ("shared-lib", "", False), ("unrelated", "", False), ("header", "", False),
        ("adage", "", False), ("", "", False), ("footnotes", "", False),
        ("category-cookies", "", False), ("tag-sharing hentry", "", False), ("tag-cloud", "", True),
        ("", "sharing-with-several-developers-at-once", False), ("content--with-sidebar", "", False),
        ("article__newsletter", "", True), ("dy ge ad hn", "", False), ("ad", "", True), ("table-contents", "", False),
    ],
)  # fmt: skip
def test_names(classes: str, identity: str, expected: bool) -> None:
    assert boilerplate.named(classes, identity) is expected


def test_captions() -> None:
    for classes in ("wp-caption-text", "caption", "image-caption"):
        assert boilerplate.caption(classes)
    for classes in ("wp-caption", "captioned", ""):
        assert not boilerplate.caption(classes)


def test_weak_names_and_readers_are_told_apart() -> None:
    assert boilerplate.names("share", "") == boilerplate.names("cookie-history", "") == tags.WEAK
    assert boilerplate.names("comments", "") == tags.REMARKS
    assert boilerplate.names("pagination", "") & tags.NAMED


def test_inline_elements_that_are_no_text() -> None:
    assert boilerplate.unseen("mw-editsection") and boilerplate.unseen("lineno") and boilerplate.unseen("x sr-only")
    assert not boilerplate.unseen("line") and not boilerplate.unseen("number")
