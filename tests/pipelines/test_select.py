"""Which images are asked for: the promises of refer, frequency and choose."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import schema
from engine.errors import ConfigError, StoreError
from engine.stage import Unit
from pipelines import select
from pipelines.coin import Coin, stays
from pipelines.reasons import Reason
from pipelines.select import Choice, Cut, Rules, Schedule, choose, frequency, recall, refer
from pipelines.urls import canonical
from tests.offline import OfflineWork, collect
from tests.pipelines.select_world import (
    POOL,
    Chain,
    Page,
    Shown,
    World,
    address_verdict,
    first_bits,
    photos,
    seen,
    selected,
    sha,
    some_generations,
)

SMALL = Choice(max_docs=3, max_candidates=2, max_references=4, max_tries=2)


@given(
    some_generations(),
    st.sampled_from([1, 4, 64]),
    st.sampled_from([1, 8]),
    st.integers(0, 1 << 30),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([True, True, False]),
)
@settings(max_examples=60, deadline=None)
def test_every_verdict_is_the_rule_whatever_partitions_and_order(
    generations: list[list[list[Page]]], partitions: int, num_domains: int, seed: int, keep_single: float, same: bool
) -> None:
    choice = dataclasses.replace(SMALL, same_images=same, coin=Coin(keep_single=keep_single))
    config = select.Config(
        cut=Cut(partitions=partitions, domains=num_domains), choice=choice, schedule=Schedule(unit_urls=2)
    )
    chain = Chain(config, random.Random(seed))
    world = World(config)

    def answers(url: str, tries: int) -> Reason:
        script = [Reason.TIMEOUT, Reason.KEPT, Reason.HTTP_GONE, Reason.DNS, Reason.BODY_CUT]
        return script[sha(f"{seed} {url} {tries}")[0] % len(script)]

    for units in generations:
        expected = world.publish(units, answers)
        chain.publish(units, answers)
        found = seen(chain, units)
        counts = found.pop("counts")
        docs = expected.pop("docs")
        assert found == expected
        # counts hold what this generation saw, with all that came before
        assert counts == {url: docs[url] for url in counts}
        seen_now = {reference["url_id"] for reference in chain.outputs["refer"]["references"].to_pylist()}
        assert {sha(url) for url in counts} == seen_now
        verdicts = Counter(Reason(reason).word for reason, _ in expected["verdicts"].values())
        side = {word: num for word, num in chain.counts["select"].items() if ":" in word}
        assert Counter({w: n for w, n in chain.counts["select"].items() if ":" not in w}) == verdicts
        assert side["image:candidate"] == len(expected["choices"])
        images = chain.counts["refer"] + chain.counts["select"]
        for word, num in Counter(Reason(reason).word for reason, _ in expected["refused"].values()).items():
            assert images[f"image:{word}"] == num


@given(some_generations(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_same_generations_give_the_same_bytes_again(
    generations: list[list[list[Page]]], shuffle: random.Random
) -> None:
    def replay(shuffle: random.Random) -> list[dict[str, dict[str, pa.Table]]]:
        chain = Chain(select.Config(cut=Cut(partitions=4, domains=2), choice=SMALL), shuffle)
        steps = []
        for units in generations:
            chain.publish(units, lambda url, tries: Reason.TIMEOUT if sha(url)[0] % 2 else Reason.KEPT)
            steps.append(dict(chain.outputs))
        return steps

    assert replay(shuffle) == replay(random.Random(1))


def test_counts_of_many_generations_end_where_one_would() -> None:
    pages = [Page(id=i, images=(Shown(url=POOL[i % 3]), Shown(url=POOL[3 + i % 4]))) for i in range(40)]
    once = Chain()
    once.publish([pages])
    slowly = Chain()
    latest = {}
    for start in range(0, 40, 7):
        slowly.publish([pages[start : start + 7]])
        latest |= {row["url_id"]: row["docs"] for row in slowly.outputs["frequency"]["counts"].to_pylist()}
    assert latest == {row["url_id"]: row["docs"] for row in once.outputs["frequency"]["counts"].to_pylist()}


def test_pages_of_many_blocks() -> None:
    units = [[Page(id=unit, images=(Shown(url=f"https://a.example/{unit % 290}.jpg"),))] for unit in range(300)]
    units[270] = [Page(id=270, fate="removed", images=(Shown(url="https://a.example/270.jpg"),))]
    config = select.Config(cut=Cut(partitions=2, domains=1), choice=Choice(max_docs=1, coin=Coin(keep_single=1.0)))
    chain = Chain(config)
    chain.publish(units)
    assert refer.parts(refer.Config(), lambda name: [None] * 600) == [("0", "256"), ("256", "256"), ("512", "88")]  # type: ignore[list-item]
    kept = {row["doc"] >> 24 & 0xFFFFFF for row in chain.outputs["select"]["verdicts"].to_pylist() if not row["reason"]}
    assert kept == set(range(10, 290)) - {270}
    assert sorted(row["url"] for _, rows in chain.units for row in rows) == sorted(
        f"https://a.example/{unit}.jpg" for unit in kept
    )


# refer ----------------------------------------------------------------------------------------------------------------


def verdict(url: str, width: int = 0, height: int = 0, rules: Rules | None = None) -> tuple[Reason, float]:
    rows = [{"row": 0, "image": 0, "url_id": sha(url), "url": url, "width": width, "height": height}]
    reasons, values = refer.refuse(pa.Table.from_pylist(rows, schema.REFERENCES), rules or Rules())
    return Reason(int(reasons[0])), float(values[0])


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("photo.jpg", Reason.KEPT),
        ("logo.png", Reason.IMAGE_BLOCKED),
        ("img/site-LOGO_2.png", Reason.IMAGE_BLOCKED),
        ("img/logo", Reason.IMAGE_BLOCKED),
        ("logo/photo.jpg", Reason.IMAGE_BLOCKED),
        ("a%20logo%20b.jpg", Reason.IMAGE_BLOCKED),
        ("%E6%97%A5logo%E6.jpg", Reason.IMAGE_BLOCKED),
        ("logos.png", Reason.KEPT),
        ("catalogo.png", Reason.KEPT),
        ("logo2.png", Reason.KEPT),
        ("photo.jpg?name=logo", Reason.KEPT),
        ("photo.jpg?/logo/", Reason.KEPT),
        ("logo?x", Reason.IMAGE_BLOCKED),
        ("1x1.gif", Reason.IMAGE_BLOCKED),
        ("t-1X1.gif", Reason.IMAGE_BLOCKED),
        ("11x1.gif", Reason.KEPT),
        ("1x10.gif", Reason.KEPT),
        ("1/x/1.gif", Reason.KEPT),
        ("Essex.jpg", Reason.KEPT),
        ("middlesex/a.jpg", Reason.KEPT),
        ("Sex/a.jpg", Reason.IMAGE_ADULT),
        ("xxx-logo.jpg", Reason.IMAGE_ADULT),
        ("a.svg", Reason.IMAGE_DRAWING),
        ("a.SVGZ", Reason.IMAGE_DRAWING),
        ("a.svg?x=1", Reason.IMAGE_DRAWING),
        ("a.svg.png", Reason.KEPT),
        ("a.jpg?b.svg", Reason.KEPT),
        ("svg", Reason.KEPT),
        ("sex-logo.svg", Reason.IMAGE_DRAWING),
        ("", Reason.KEPT),
    ],
)
def test_address_rules(path: str, reason: Reason) -> None:
    url = canonical(f"https://logo.sex.example/{path}")
    assert url
    assert verdict(url) == (reason, 0)
    assert address_verdict(Shown(url=url), Rules()) == (reason, 0)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://a.example/images/note.png", Reason.IMAGE_BLOCKED),
        ("https://a.example/NEXT.GIF?v=2", Reason.IMAGE_BLOCKED),
        ("https://a.example/note.jpg", Reason.KEPT),
        ("https://a.example/Icons/a.jpg", Reason.IMAGE_BLOCKED),
        ("https://a.example/x/buttons/y/a.jpg?b", Reason.IMAGE_BLOCKED),
        ("https://a.example/x/my-buttons/a.jpg", Reason.KEPT),
        ("https://a.example/buttons.png", Reason.KEPT),
        ("https://a.example/x?/buttons/a.jpg", Reason.KEPT),
        ("https://a.example/note/a.png", Reason.KEPT),
        ("https://a.example/a-note.png", Reason.KEPT),
        ("https://a.example/x?/note.png", Reason.KEPT),
        ("https://pixel.a.example/b.gif", Reason.IMAGE_BLOCKED),
        ("https://www.ads.a.example:8443/tower.jpg", Reason.IMAGE_BLOCKED),
        ("https://ads.example/tower.jpg", Reason.KEPT),  # a site of that name
        ("https://loads.a.example/tower.jpg", Reason.KEPT),
        ("https://a.example/ads.a.example/tower.jpg", Reason.KEPT),
    ],
)
def test_symbols_and_counters(url: str, reason: Reason) -> None:
    assert verdict(url) == address_verdict(Shown(url=url), Rules()) == (reason, 0)


def test_hosts_are_not_asked_and_no_address_does_no_harm() -> None:
    assert verdict("https://cdn.svg") == (Reason.KEPT, 0)
    assert verdict("") == (Reason.KEPT, 0)
    assert verdict("http://[2001:db8::1]:8080/icon.png") == (Reason.IMAGE_BLOCKED, 0)


@given(st.text("abx1%/2E.s", max_size=12))
def test_tokens_are_those_of_the_decoded_path(path: str) -> None:
    url = canonical(f"https://a.example/{path}")
    # two digits of an escape must not look like a token, nor a token like a part of an escape
    rules = Rules(blocked=("ab", "2e", "1x1", "a"), adult=("x", "25"))
    assert verdict(url, rules=rules) == address_verdict(Shown(url=url), rules)


@pytest.mark.parametrize(
    ("width", "height", "value"),
    [(0, 0, 0), (63, 0, 63), (0, 1, 1), (64, 64, 0), (63, 20, 20), (300, 63, 63), (64, 0, 0), (-1, 0, 0)],
)
def test_declared_sides(width: int, height: int, value: int) -> None:
    expected = (Reason.IMAGE_DECLARED_SMALL, value) if value else (Reason.KEPT, 0)
    assert verdict("https://a.example/a.jpg", width, height) == expected


def test_rules_that_are_switched_off_refuse_nothing() -> None:
    none = Rules(blocked=(), adult=(), folders=(), symbols=(), hosts=(), min_side=0)
    assert verdict("https://a.example/sex/logo.png", 1, 1, none) == (Reason.KEPT, 0)


@pytest.mark.parametrize("word", ["", "data-src", "日本", "a|b"])
def test_a_word_that_is_no_token_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="no token"):
        refer.Config(rules=Rules(blocked=(word,)))


def test_an_address_shown_twice_counts_once_and_the_first_that_passes_stays() -> None:
    a, b = "https://a.example/a.jpg", "https://a.example/b.jpg"
    page = Page(id=1, images=(Shown(url=a, width=1), Shown(url=b), Shown(url=a), Shown(url=b), Shown(url=a)))
    chain = Chain()
    chain.publish([[page, Page(id=2)]])
    refused = [(row["image"], row["reason"]) for row in chain.outputs["refer"]["refused"].to_pylist()]
    twice = Reason.IMAGE_TWICE
    assert refused == [(0, Reason.IMAGE_DECLARED_SMALL), (3, twice), (4, twice)]
    pages = chain.outputs["refer"]["pages"].to_pylist()
    assert [(row["references"], row["passing"]) for row in pages] == [(5, 2), (0, 0)]
    assert set(chain.outputs["frequency"]["counts"]["docs"].to_pylist()) == {1}
    assert chain.counts["refer"] == {"image:image_declared_small": 1, "image:image_twice": 2, "image:passing": 2}


# frequency ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("history", "tries"),
    [
        ([], 0),
        ([Reason.TIMEOUT], 1),
        ([Reason.DNS, Reason.HTTP_BUSY], 2),
        ([Reason.FETCHER] * 3, 3),
        ([Reason.KEPT], 255),
        ([Reason.HTTP_GONE], 255),
        ([Reason.SIDE_SMALL], 255),
        ([Reason.TIMEOUT, Reason.KEPT], 255),
        # an answer that holds is not lost to what comes after it
        ([Reason.KEPT, Reason.TIMEOUT], 255),
    ],
)
def test_tries(history: list[Reason], tries: int) -> None:
    url = "https://a.example/a.jpg"
    chain = Chain(select.Config(cut=Cut(partitions=2, domains=1), choice=Choice(coin=Coin(keep_single=1.0))))
    for before, reason in enumerate(history):
        chain.answer(
            {url: reason, f"https://b.example/{before}": Reason.KEPT}, {url: before, f"https://b.example/{before}": 0}
        )
    chain.publish([[Page(id=1, images=(Shown(url=url),))]])
    # a candidate in any case, asked for only while there is hope
    assert chain.outputs["select"]["choices"].num_rows == 1
    assert [row["tries"] for _, rows in chain.units for row in rows] == ([tries] if tries < 3 else [])
    counts = chain.counts["recall"]
    assert counts["image:known"] == (tries >= 3) and counts["image:wanted"] == (tries == 0)
    assert counts["image:wanted_again"] == (tries in (1, 2))


def test_ids_with_zero_bytes_are_ids_like_others() -> None:
    ids = [bytes(32), bytes(31) + b"\1", b"\1" + bytes(31), b"\1\0\1" + bytes(29), b"\xff" * 32]
    keys = schema.REFERENCE_KEYS.remove(0)
    rows = [{"url_id": id, "doc": 1 << 48 | n, "image": 0} for n, id in enumerate(ids * 2)]
    work = OfflineWork(
        unit=Unit(id="0" * 12 + "-000000", inputs=("0",)),
        scratch=Path(),
        parts={
            ("refer", "references", 0): [pa.Table.from_pylist(rows, keys)],
            ("frequency", "counts", 1): [pa.table([ids[1:3], [7, 8]], schema=schema.URL_COUNTS)],
            ("frequency", "sets", 1): [schema.SET_KEEPERS.empty_table()],
            ("refer", "sets", 0): [schema.IMAGE_SETS.remove(0).empty_table()],
        },
        generation=SimpleNamespace(number=2, earlier=lambda name: (1,)),
    )
    done = collect(frequency.process, frequency.Config(cut=Cut(partitions=1)), work, frequency.OUTPUTS)
    counts = {row["url_id"]: row["docs"] for row in done["counts"].to_pylist()}
    assert counts == dict(zip(ids, [2, 9, 10, 2, 2], strict=True))
    assert [row["url_docs"] for row in done["images"].to_pylist()] == [2, 9, 10, 2, 2] * 2
    outcomes = pa.schema([schema.OUTCOMES.field(name) for name in ("url_id", "reason", "tries")])
    urls = [{"url_id": id, "url": f"https://a.example/{n}", "domain": "a.example"} for n, id in enumerate(ids * 2)]
    work.parts = {
        ("select", "urls", 0): [pa.Table.from_pylist(urls, schema.CANDIDATE_URLS.remove(0))],
        ("fetch", "outcomes", 1): [
            pa.Table.from_pylist(
                [
                    {"url_id": ids[0], "reason": int(Reason.DNS), "tries": 2},
                    {"url_id": ids[2], "reason": int(Reason.HTTP_GONE), "tries": 1},
                ],
                outcomes,
            )
        ],
    }
    wanted = collect(recall.process, recall.Config(cut=Cut(partitions=1, domains=1)), work, recall.OUTPUTS)["urls"]
    assert {row["url_id"]: row["tries"] for row in wanted.to_pylist()} == {ids[0]: 2, ids[1]: 0, ids[3]: 0, ids[4]: 0}


# choose ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num", "reason", "value"),
    [
        (0, Reason.NO_IMAGE, 0),
        (1, Reason.SINGLE_IMAGE, 1),
        (2, Reason.KEPT, 2),
        (8, Reason.KEPT, 8),
        (9, Reason.KEPT, 8),
        (30, Reason.KEPT, 8),
        (31, Reason.TOO_MANY_REFERENCES, 31),
    ],
)
def test_documents_by_number_of_images(num: int, reason: Reason, value: int) -> None:
    pages = [Page(id=1, images=photos(num))]
    assert selected(pages, Choice(coin=Coin(keep_single=0.0))) == {0: (reason, value)}


def test_images_need_prose_beside_them() -> None:
    pages = [Page(id=1, images=photos(2), prose=False), Page(id=2, images=photos(31), prose=False), Page(id=3)]
    found = selected(pages, Choice())
    assert found == {0: (Reason.NOT_INTERSPERSED, 2), 1: (Reason.NOT_INTERSPERSED, 31), 2: (Reason.NO_IMAGE, 0)}


def test_an_address_may_stand_in_ten_documents() -> None:
    for num, reason in ((10, Reason.KEPT), (11, Reason.NO_CANDIDATE)):
        pages = [Page(id=i, images=photos(2)) for i in range(num)]
        assert {verdict[0] for verdict in selected(pages, Choice(same_images=False)).values()} == {reason}


def test_the_coin_is_that_of_the_page() -> None:
    pages = [Page(id=i, images=photos(1, f"{i}.example")) for i in range(40)]
    for coin in (Coin(), Coin(seed=5, keep_single=0.3)):
        found = [reason == Reason.KEPT for reason, _ in selected(pages, Choice(coin=coin)).values()]
        assert found == stays([page.doc_id for page in pages], coin).tolist()
        assert 0 < sum(found) < 40


def test_documents_that_go_ask_for_nothing() -> None:
    pages = [Page(id=1, images=photos(1, "a.example")), Page(id=2, images=photos(31, "b.example")), Page(id=3)]
    chain = Chain(select.Config(cut=Cut(partitions=1, domains=1), choice=Choice(coin=Coin(keep_single=0.0))))
    chain.publish([pages])
    assert chain.outputs["select"]["choices"].num_rows == chain.outputs["select"]["urls"].num_rows == 0
    assert chain.outputs["select"]["refused"].num_rows == 0
    assert not chain.units


def test_the_first_candidates_stay_in_order_of_the_page() -> None:
    pages = [
        Page(id=i, images=(Shown(url="https://b.example/everywhere.jpg"), *photos(4, f"{i}.example"))) for i in range(3)
    ]
    chain = Chain(select.Config(cut=Cut(partitions=4, domains=2), choice=Choice(max_docs=2, max_candidates=3)))
    chain.publish([pages])
    chosen = defaultdict(list)
    for row in sorted(chain.outputs["select"]["choices"].to_pylist(), key=lambda row: (row["doc"], row["image"])):
        chosen[row["doc"] & 0xFF].append(row["image"])
    assert chosen == {doc: [1, 2, 3] for doc in range(3)}
    refused = [(row["image"], row["reason"], row["value"]) for row in chain.outputs["select"]["refused"].to_pylist()]
    assert refused == [(0, Reason.IMAGE_FREQUENT, 3), (4, Reason.IMAGE_SURPLUS, 0)] * 3


def test_domains_are_those_of_the_hosts() -> None:
    hosts = ["img.a.example", "A.example:8080", "1.bp.blogspot.com", "[2001:db8::1]:8443", "10.0.0.1", "b.co.uk"]
    urls = [canonical(f"http://{host}/a.jpg") for host in hosts]
    chain = Chain(select.Config(cut=Cut(partitions=1, domains=16)))
    chain.publish([[Page(id=1, images=tuple(Shown(url=url) for url in urls))]])
    rows = chain.outputs["recall"]["urls"].to_pylist()
    keys = {row["url"]: row["domain"] for row in rows}
    assert keys == dict(
        zip(
            urls,
            ["a.example", "a.example", "googleusercontent.com", "[2001:db8::1]", "10.0.0.1", "b.co.uk"],
            strict=True,
        )
    )
    for row in rows:
        first = hashlib.blake2b(row["domain"].encode(), digest_size=8).digest()
        assert row["part"] == first_bits(first, 16)


def test_images_that_nobody_refers_to_are_an_error() -> None:
    chain = Chain()
    chain.publish([[Page(id=1, images=photos(2)), Page(id=2)]])
    config = choose.Config(cut=chain.config.cut)
    work = OfflineWork(
        unit=Unit(id="0" * 12 + "-000000", inputs=("0", "1")),
        scratch=Path(),
        frozen=chain.frozen,
        parts=dict(chain.parts),
        generation=SimpleNamespace(number=1, earlier=lambda name: ()),
    )
    extracted = chain.frozen["extract", 0][0]["references"]
    chain.frozen["extract", 0][0]["references"] = extracted.slice(1)
    with pytest.raises(StoreError, match="extract does not know"):
        list(choose.process(work.unit, config, work))
    lost = [{"doc": 1 << 48 | 9, "keeper": 1 << 48, "images": 2}]
    work.parts["frequency", "twins", 0] = [pa.Table.from_pylist(lost, schema.SET_TWINS.remove(0))]
    with pytest.raises(StoreError, match="twins of pages"):
        list(choose.process(work.unit, config, work))
    work.parts["refer", "pages", 0] = [work.parts["refer", "pages", 0][0].slice(1)]
    with pytest.raises(StoreError, match="refer does not know"):
        list(choose.process(work.unit, config, work))
