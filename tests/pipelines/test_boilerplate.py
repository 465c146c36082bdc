"""Names of containers match by token."""

from __future__ import annotations

import pytest

from pipelines import boilerplate


@pytest.mark.parametrize(
    ("classes", "identity", "expected"),
    [
        ("sidebar", "", True), ("main-menu", "", True), ("mainMenu", "", True), ("", "cookieBanner", True),
        ("post RelatedPosts", "", True), ("td_social_share", "", True), ("newsletter-signup", "", True),
        ("site-footer", "", True), ("you-might-like", "", True), ("sr-only", "", True),
        ("update", "", False), ("date", "", False), ("navy", "", False), ("has-sidebar", "", False),
        ("no-sidebar content", "", False), ("shared-lib", "", False), ("unrelated", "", False), ("header", "", False),
        ("adage", "", False), ("", "", False), ("footnotes", "", False),
    ],
)  # fmt: skip
def test_names(classes: str, identity: str, expected: bool) -> None:
    assert boilerplate.named(classes, identity) is expected


def test_captions() -> None:
    for classes in ("wp-caption-text", "caption", "image-caption"):
        assert boilerplate.caption(classes)
    for classes in ("wp-caption", "captioned", ""):
        assert not boilerplate.caption(classes)
