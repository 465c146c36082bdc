"""robots.txt: RFC 9309, Google's published examples, and what is said of training, as tables."""

from __future__ import annotations

import pytest

from pipelines.fetch import robots
from pipelines.fetch.robots import NONE, Rules, parse
from pipelines.reasons import PASSING, Reason

US = "kosmosbot"
SITE = "http://example.org"


def allows(text: str, path: str, agent: str = US) -> bool:
    return parse(text.encode(), agent).allows(SITE + path)


def reserves(text: str, path: str = "/a.jpg", agent: str = US) -> bool:
    return parse(text.encode(), agent).reserved(SITE + path)


RFC = """
User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: foobot
Disallow:/
Allow:/example/page.html
Allow:/example/allowed.gif

User-Agent: barbot
User-Agent: bazbot
Disallow: /example/page.html

User-Agent: quxbot

EOF
"""  # 5.1 of RFC 9309


@pytest.mark.parametrize(
    ("agent", "allowed", "forbidden"),
    [
        (US, ["/", "/publications/", "/example", "/a.gif?b"], ["/example/page.html", "/a.gif", "/b/c.gif"]),
        ("FooBot", ["/example/page.html", "/example/allowed.gif"], ["/", "/publications/", "/example/other"]),
        ("barbot", ["/", "/a.gif", "/example/"], ["/example/page.html", "/example/page.html?a"]),
        ("BAZBOT", ["/", "/a.gif", "/example/"], ["/example/page.html"]),
        ("quxbot", ["/", "/a.gif", "/example/page.html"], []),  # a group of its own, and no rule in it
    ],
)
def test_the_example_of_the_rfc(agent: str, allowed: list[str], forbidden: list[str]) -> None:
    assert [path for path in allowed if not allows(RFC, path, agent)] == []
    assert [path for path in forbidden if allows(RFC, path, agent)] == []


FISH = ["/fish", "/fish.html", "/fish/salmon.html", "/fishheads", "/fishheads/yummy.html", "/fish.html?id=anything"]
NO_FISH = ["/Fish.asp", "/catfish", "/?id=fish", "/desert/fish"]
# (pattern, what it matches, what not): "URL matching based on path values" in Google's documentation, and RFC 9309 2.2
PATTERNS = [
    ("/", ["/", "/a", "/?a"], []),
    ("/*", ["/", "/a", "/?a"], []),
    ("*", ["/", "/a"], []),
    ("", [], ["/", "/a"]),
    ("/$", ["/"], ["/a", "/?a"]),
    ("/fish", FISH, NO_FISH),
    ("/fish*", FISH, NO_FISH),
    ("/fish*$", FISH, NO_FISH),
    (
        "/fish/",
        ["/fish/", "/fish/?id=anything", "/fish/salmon.htm"],
        ["/fish", "/fish.html", "/animals/fish/", "/Fish/"],
    ),
    (
        "/*.php",
        [
            "/index.php",
            "/filename.php",
            "/folder/filename.php?parameters",
            "/folder/any.php.file.html",
            "/filename.php/",
        ],
        ["/", "/windows.PHP", "/php/"],
    ),
    (
        "/*.php$",
        ["/filename.php", "/folder/filename.php"],
        ["/filename.php?parameters", "/filename.php/", "/windows.PHP"],
    ),
    ("/fish*.php", ["/fish.php", "/fishheads/catfish.php?parameters"], ["/Fish.PHP", "/fish.PHP"]),
    ("/foo/*/qux", ["/foo/bar/qux", "/foo//qux", "/foo/bax/quxx"], ["/foo/qux", "/foo/bar/quz"]),
    ("/a*b*c$", ["/abc", "/a1b2c", "/abcbc"], ["/abcd", "/acb", "/ab"]),
    ("/a**b", ["/ab", "/acb"], ["/ac"]),
    ("/a" + "*" * 40 + "b", ["/ab", "/acb"], ["/ac"]),
    ("/*aba$", ["/aba", "/ababa"], ["/ab", "/abab"]),
    ("/*ab*ba$", ["/abba", "/abaXba"], ["/aba"]),  # the pieces may not overlap
    ("fish", [], FISH),  # a path begins with "/" or "*"
    ("http://example.org/a", [], ["/a"]),
    ("/a$b", ["/a$b", "/a$bc", "/a%24b"], ["/a"]),  # only at the end does it stand for the end
    ("/file-with-a-%2A.html", ["/file-with-a-*.html", "/file-with-a-%2A.html"], ["/file-with-a-b.html"]),
    ("/path/foo-%24", ["/path/foo-$", "/path/foo-$a"], ["/path/foo-"]),
    # the table of RFC 9309 2.2.2
    ("/foo/bar?baz=quz", ["/foo/bar?baz=quz"], ["/foo/bar", "/foo/bar?baz=qux"]),
    ("/foo/bar?baz=https://foo.bar", ["/foo/bar?baz=https://foo.bar", "/foo/bar?baz=https%3A%2F%2Ffoo.bar"], []),
    ("/foo/bar/ツ", ["/foo/bar/%E3%83%84"], ["/foo/bar/"]),
    ("/foo/bar/%E3%83%84", ["/foo/bar/%e3%83%84"], ["/foo/bar/"]),
    ("/foo/bar/%62%61%7A", ["/foo/bar/baz"], ["/foo/bar/"]),
    ("/%7Ejoe/", ["/~joe/a", "/%7Ejoe/a"], ["/joe/"]),
    ("/~joe/", ["/~joe/a", "/%7ejoe/a"], ["/joe/"]),
    ("/100%", ["/100%25", "/100%25a"], ["/100"]),
    ("/a%zz", ["/a%25zz"], ["/a"]),
]


@pytest.mark.parametrize(("pattern", "matched", "others"), PATTERNS)
def test_what_a_pattern_matches(pattern: str, matched: list[str], others: list[str]) -> None:
    forbidden = parse(f"User-agent: *\nDisallow: {pattern}\n".encode(), US)
    spared = parse(f"User-agent: *\nDisallow: /\nDisallow: *\nAllow: {pattern}\n".encode(), US)
    for path in matched:
        assert (path, forbidden.allows(SITE + path)) == (path, False)
        assert (path, spared.allows(SITE + path)) == (path, True)
    for path in others:
        assert (path, forbidden.allows(SITE + path)) == (path, True)
        assert (path, spared.allows(SITE + path)) == (path, False)


# (rules, path, allowed): "Order of precedence" in Google's documentation, and its parser's tests in short
PRECEDENCE = [
    ("allow: /p\ndisallow: /", "/page", True),
    ("allow: /folder\ndisallow: /folder", "/folder/page", True),
    ("allow: /page\ndisallow: /*.htm", "/page.htm", False),
    ("allow: /page\ndisallow: /*.ph", "/page.php5", True),
    ("allow: /$\ndisallow: /", "/", True),
    ("allow: /$\ndisallow: /", "/page.htm", False),
    ("disallow: /x/page.html\nallow: /x/", "/x/page.html", False),
    ("allow: /x/page.html\ndisallow: /x/", "/x/page.html", True),
    ("allow: /x/page.html\ndisallow: /x/", "/x/", False),
    ("disallow: \nallow: ", "/x", True),
    ("disallow: /x\nallow: /x/", "/x", False),
    ("disallow: /x\nallow: /x/", "/x/", True),
    ("allow: /x/page.\ndisallow: /*.html", "/x/page.html", True),
    ("allow: /x/page.\ndisallow: /*.html", "/x/y.html", False),
    ("disallow: /foo/bar/quz\nallow: /foo/*/qux", "/foo/bar/quz", False),
    ("disallow: /foo/bar$\nallow: /foo/bar/qux", "/foo/bar", False),
    ("disallow: /foo/quz#qux\nallow: /", "/foo/quz", False),
    (
        "allow: /foo/bar?qux=taz&baz=http://foo.bar?tar&par\ndisallow: /",
        "/foo/bar?qux=taz&baz=http://foo.bar?tar&par",
        True,
    ),
    ("allow: /allowed/index.html\ndisallow: /", "/allowed/", False),  # Google alone reads this as the folder
    ("allow: /*a*b\ndisallow: /*b", "/ab", True),
    ("disallow: /*a*b\nallow: /*b", "/ab", False),
    ("disallow: /a**b\nallow: /a*b", "/ab", False),
    ("disallow: /%61b\nallow: /ab", "/ab", True),  # one length, whatever the spelling
    ("disallow: /a*\nallow: /a", "/ab", False),
    ("disallow: /", "/robots.txt", True),  # always
    ("disallow: /", "/robots.txt?a", False),
    ("disallow: /", "/a/robots.txt", False),
]


@pytest.mark.parametrize(("rules", "path", "allowed"), PRECEDENCE)
@pytest.mark.parametrize("turned", [False, True])
def test_the_longest_rule_counts_wherever_it_stands(rules: str, path: str, allowed: bool, turned: bool) -> None:
    lines = rules.splitlines()
    assert allows("\n".join(["user-agent: *", *(reversed(lines) if turned else lines)]), path) is allowed


# (file, agent, whether /x is allowed)
GROUPS = [
    ("", US, True),
    ("Disallow: /", US, True),  # before any group
    ("User-agent: *\nDisallow: /", US, False),
    ("User-agent: other\nDisallow: /", US, True),
    ("User-agent: *\nDisallow: /\nUser-agent: kosmosbot\nDisallow:", US, True),
    ("User-agent: kosmosbot\nDisallow:\nUser-agent: *\nDisallow: /", US, True),
    ("User-agent: kosmosbot\nUser-agent: *\nDisallow: /", US, False),
    ("User-agent: KosmosBot\nDisallow: /", US, False),
    ("User-agent: kosmosbot\nDisallow: /", "KOSMOSBOT", False),
    ("User-agent: kosmosbot\nDisallow: /", "kosmosbot/1.0 (+https://example.org)", False),
    ("User-agent: kosmosbot/1.0\nDisallow: /", US, False),
    ("User-agent: kosmosbot images\nDisallow: /", US, False),
    ("User-agent: kosmosbot*\nDisallow: /", US, False),
    ("User-agent: kosmos\nDisallow: /", US, True),  # another product
    ("User-agent: kosmosbot-images\nDisallow: /", US, True),
    ("User-agent: bot\nDisallow: /", US, True),
    ("User-agent: Mozilla/5.0 (compatible; kosmosbot)\nDisallow: /", US, True),
    ("User-agent:\nDisallow: /", US, True),
    ("User-agent: * \nDisallow: /", US, False),
    ("User-agent: *\nDisallow: /", "", False),
    ("User-agent:\nDisallow: /", "", True),
    # groups of one agent are one
    ("User-agent: kosmosbot\nAllow: /y\nUser-agent: o\nAllow: /\nUser-agent: kosmosbot\nDisallow: /", US, False),
    ("User-agent: *\nAllow: /x\nUser-agent: o\nDisallow: /\nUser-agent: *\nDisallow: /", US, True),
    # only a rule ends a run of User-agent lines
    ("User-agent: kosmosbot\nSitemap: https://a.b/c\nUser-agent: o\nDisallow: /", US, False),
    ("User-agent: kosmosbot\nUnknown: 1\n\n# a comment\n\nUser-agent: o\nDisallow: /", US, False),
    ("User-agent: kosmosbot\nCrawl-delay: 1\nUser-agent: o\nDisallow: /", US, False),
    ("User-agent: kosmosbot\nContent-Signal: search=yes\nUser-agent: o\nDisallow: /", US, False),
    ("User-agent: kosmosbot\nDisallow:\nUser-agent: o\nDisallow: /", US, True),
    ("User-agent: kosmosbot\nContent-Usage: / ai=y\nUser-agent: o\nDisallow: /", US, True),
    ("User-agent: o\nDisallow: /y\nSitemap: a\nDisallow: /x", US, True),
    # what people write
    ("user-agent *\ndisallow /", US, False),
    ("user-agent *\ndisallow / and more", US, True),
    ("USERAGENT : *\n\tDISALLOW\t:\t/", US, False),
    ("User agent: *\nDissallow: /", US, False),
    ("User-agent: *\nDisalow: /", US, False),
    ("User-agent: *\nDisallowed: /", US, True),
    ("User-agent: * # all\nDisallow: / # all", US, False),
    ("User-agent: *\n# Disallow: /", US, True),
    ("User-agent: *\nDisallow: /x", US, False),
    ("<html><body>User-agent: *\nDisallow: /", US, True),
]


@pytest.mark.parametrize(("text", "agent", "allowed"), GROUPS)
def test_whose_rules_count(text: str, agent: str, allowed: bool) -> None:
    assert allows(text, "/x", agent) is allowed


@pytest.mark.parametrize(
    ("lines", "delay"),
    [
        ("Crawl-delay: 10", 10.0),
        ("crawl-delay:0.5", 0.5),
        ("Crawl-delay: .25", 0.25),
        ("Crawl-delay: 2\nCrawl-delay: 7\nCrawl-delay: 3", 7.0),
        ("Crawl-delay: 999999999", robots.MAX_DELAY),
        ("Crawl-delay: -1", 0.0),
        ("Crawl-delay: ten", 0.0),
        ("Crawl-delay: nan", 0.0),
        ("Crawl-delay: inf", 0.0),
        ("Crawl-delay: 1e9", 0.0),
        ("Crawl-delay: 1_0", 0.0),
        ("Crawl-delay:", 0.0),
        ("Disallow: /a\nUser-agent: other\nCrawl-delay: 10", 0.0),
        ("User-agent: other\nCrawl-delay: 10", 10.0),
    ],
)
def test_crawl_delay(lines: str, delay: float) -> None:
    assert parse(f"User-agent: *\n{lines}\n".encode(), US).delay == delay


def test_a_delay_is_for_the_agents_above_it() -> None:
    text = b"User-agent: other\nCrawl-delay: 10\nUser-agent: *\nDisallow: /x\n"
    assert parse(text, US).delay == 0
    assert parse(text, "other").delay == 10
    assert not parse(text, "other").allows(SITE + "/x")


# (file, path, reserved)
TRAINING = [
    ("User-agent: *\nContent-Signal: search=yes, ai-train=no\nAllow: /", "/a", True),
    ("User-Agent: *\nContent-signal: search=yes,ai-train=no,use=reference\nAllow: /", "/a", True),
    ("User-agent: *\nContent-Signal: ai-train=yes, search=yes, ai-input=no\nAllow: /", "/a", False),
    ("User-agent: *\nContent-Signal: search=no, ai-input=no", "/a", False),
    ("User-agent: *\nContent-Signal: ai-train=maybe", "/a", False),
    ("User-agent: other\nContent-Signal: ai-train=no", "/a", False),
    ("User-agent: *\nContent-Signal: ai-train=no\nUser-agent: kosmosbot\nAllow: /", "/a", False),
    ("Content-Signal: ai-train=no\nUser-agent: *\nAllow: /", "/a", True),  # before any group: for all
    ("Content-Signal: ai-train=no\nUser-agent: kosmosbot\nAllow: /", "/a", True),
    ("Content-Signal: ai-train=no", "/a", True),
    ("User-agent: *\nContent-Signal: ai-train=no\nContent-Signal: ai-train=yes", "/a", True),
    ("User-agent: *\nContent-Signal: /b ai-train=no", "/a", False),
    ("User-agent: *\nContent-Signal: /b ai-train=no", "/b", True),
    ("User-Agent: *\nAllow: /\nContent-Usage: / train-ai=n", "/a", True),
    ("User-Agent: *\nAllow: /\nContent-Usage: train-ai=n", "/a", True),
    ("User-Agent: *\nContent-Usage: ai=n", "/a", True),  # an earlier draft
    ("User-Agent: *\nContent-Usage: search=n", "/a", False),
    ("User-Agent: *\nContent-Usage: bots=n", "/a", True),
    ("User-Agent: *\nContent-Usage: bots=n, train-ai=y", "/a", False),
    # the example of draft-ietf-aipref-attach
    (
        "User-Agent: *\nAllow: /\nDisallow: /never/\nContent-Usage: / train-ai=n\nContent-Usage: /ai-ok/ train-ai=y",
        "/t",
        True,
    ),
    ("User-Agent: *\nContent-Usage: / train-ai=n\nContent-Usage: /ai-ok/ train-ai=y", "/ai-ok/t", False),
    ("User-Agent: *\nContent-Usage: / train-ai=n\nUser-Agent: kosmosbot\nContent-Usage: / train-ai=y", "/t", False),
    (
        "User-Agent: *\nContent-Usage: /a train-ai=n\nContent-Usage: /a train-ai=y",
        "/a",
        True,
    ),  # the stricter, not allow
    ("User-Agent: *\nContent-Usage: /a train-ai=n\nContent-Usage: /a/b search=y", "/a/b", True),  # says nothing of it
    ("User-Agent: *\nContent-Usage: /*.jpg$\ttrain-ai=n", "/a.jpg", True),
    ("User-Agent: *\nContent-Usage: /*.jpg$\ttrain-ai=n", "/a.jpg?b", False),
    ("User-Agent: *\nContent-Usage: /a", "/a", False),
    ("User-Agent: *\nContent-Usage: /ツ train-ai=n", "/%E3%83%84", True),
    ("User-Agent: *\nContent-Usage: train-ai=y\nContent-Signal: ai-train=no", "/a", True),
]


@pytest.mark.parametrize(("text", "path", "reserved"), TRAINING)
def test_what_is_reserved_from_training(text: str, path: str, reserved: bool) -> None:
    assert reserves(text, path) is reserved
    assert allows(text, path)  # another question


def test_no_file_allows_all() -> None:
    for rules in (NONE, Rules(), parse(b"", US)):
        assert rules.allows(SITE + "/") and not rules.reserved(SITE + "/")
        assert (rules.delay, rules.text, rules.num_bytes) == (0.0, "", 0)


STANDING = {
    Reason.KEPT: Reason.KEPT,
    Reason.BODY_TOO_LARGE: Reason.KEPT,
    Reason.BODY_EMPTY: Reason.BODY_EMPTY,
    Reason.HTTP_GONE: Reason.HTTP_GONE,
    Reason.HTTP_CLIENT: Reason.HTTP_CLIENT,
    Reason.HTTP_OTHER: Reason.HTTP_OTHER,
    Reason.REDIRECTS: Reason.REDIRECTS,
    Reason.HTTP_BUSY: Reason.ROBOTS_UNREACHABLE,
    Reason.HTTP_SERVER: Reason.ROBOTS_UNREACHABLE,
    Reason.PROTOCOL: Reason.ROBOTS_UNREACHABLE,
    Reason.BODY_CUT: Reason.ROBOTS_UNREACHABLE,
}


@pytest.mark.parametrize("reason", list(Reason))
def test_what_an_answer_means_for_its_site(reason: Reason) -> None:
    found = robots.standing(reason, 0.0)
    assert found == STANDING.get(reason, reason)
    assert robots.allowed(found) is (reason in STANDING and found != Reason.ROBOTS_UNREACHABLE)
    if found == Reason.ROBOTS_UNREACHABLE:
        assert found in PASSING


def test_success_is_any_2xx() -> None:
    assert robots.standing(Reason.HTTP_OTHER, 206.0) == Reason.KEPT
    assert robots.standing(Reason.HTTP_OTHER, 304.0) == Reason.HTTP_OTHER
