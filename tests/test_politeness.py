"""What a server sees of two drivers with four workers: how many requests at a time, how close, and how often."""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.config import override
from engine.ledger import Ledger
from pipelines.kosmos import interleaved, small
from pipelines.select import domains
from pipelines.smallweb import CRAWLS
from pipelines.smallweb.albums import figure, page, photo
from pipelines.smallweb.pictures import Picture
from pipelines.smallweb.prose import Dice
from pipelines.smallweb.robots import Robots
from pipelines.smallweb.server import Answer, Pictures, Request, Server, settings
from pipelines.smallweb.truth import Truth, save
from pipelines.smallweb.warcs import Writing
from tests.test_promises_images import kosmos_run, up_to_fetch

RATE = 8.0  # requests a second and domain
AT_ONCE = 2
UNIT_URLS = 12
# What a request may come late to the server, by the scheduler of a loaded machine, while the next one does not.
SLACK_S = 0.03
DELAY_S = 0.5  # the Crawl-delay of one site
AGAIN_S = 1.0  # the Retry-After of another
# domain -> (its hosts, pictures of each)
SITES = {"large": (4, 9), "middle": (2, 10), "slow": (1, 6), "small": (3, 2), "busy": (1, 4)}


class Lazy(Pictures):
    """Takes longer for a picture than the rate has between two requests, so that there could be many at a time."""

    def answer(self, url: str) -> Answer:
        found = super().answer(url)
        return replace(found, delay_s=0.3) if found.status == 200 and not url.endswith("/robots.txt") else found


def pictures() -> list[Picture]:
    """Those of all sites; of `large` some moved within it, of `middle` some moved to `large`."""
    dice = Dice("polite")
    found: list[Picture] = []
    for name, (hosts, each) in SITES.items():
        for host in range(hosts):
            for number in range(each):
                shown = photo(dice, f"h{host}.{name}.example", "gardens")
                shown = replace(shown, url=f"http://h{host}.{name}.example/{number}.jpg", seed=len(found))
                if name == "busy" and number == 1:
                    shown = replace(shown, kind="busy", width=320, height=240)
                if name in ("large", "middle") and not number % 5:
                    shown = replace(shown, moved=f"http://new.large.example/{len(found)}.jpg")
                found.append(shown)
    return found


def write(folder: Path) -> list[Picture]:
    """A crawl of one file whose pages show the pictures, seven a page."""
    found = pictures()
    start = datetime(2026, 2, 7, tzinfo=UTC)
    path = f"crawl-data/{CRAWLS[0]}/segments/1/warc/polite.warc.gz"
    writing = Writing(path, start)
    shuffled = Dice("pages").shuffled(found)
    for place in range(0, len(shuffled), 7):
        dice = Dice("page", place)
        shown = [figure(dice, one) for one in shuffled[place : place + 7]]
        album = page(dice, "www.album.example", "gardens", "album", shown)
        writing.capture(replace(album, markup="plain"), None, dice)
    writing.finish(folder / path)
    (folder / f"crawl-data/{CRAWLS[0]}/warc.paths.gz").write_bytes(gzip.compress(f"{path}\n".encode(), mtime=0))
    slow = Robots(host="h0.slow.example", text=f"User-agent: *\nCrawl-delay: {DELAY_S}\n")
    save(Truth(records=tuple(writing.records), pictures=tuple(found), robots=(slow,)), folder)
    return found


def most_at_once(requests: Sequence[Request]) -> int:
    """Of the requests, how many were ever in flight together."""
    changes = sorted([(one.began, 1) for one in requests] + [(one.ended, -1) for one in requests])
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def shortfall(requests: Sequence[Request], step_s: float) -> float:
    """Seconds by which the closest window of k requests is shorter than (k - 1) steps; at most 0 if none is."""
    starts = sorted(one.began for one in requests)
    # t[j] - t[i] >= (j - i) * step for all i < j: of t[j] - j * step none is under an earlier one
    worst, latest = 0.0, float("-inf")
    for place, start in enumerate(starts):
        lag = start - place * step_s
        worst = max(worst, latest - lag)
        latest = max(latest, lag)
    return worst


def test_the_measures_find_what_is_impolite() -> None:
    def asked(*times: tuple[float, float]) -> list[Request]:
        return [Request(url="", began=began, ended=ended, status=200) for began, ended in times]

    assert most_at_once(asked((0, 1), (1, 2), (2, 3))) == 1
    assert most_at_once(asked((0, 3), (1, 2), (1.5, 4), (5, 6))) == 3
    assert shortfall(asked((0, 1), (1, 2), (2, 3)), 1.0) == 0.0
    assert shortfall(asked((0, 1), (5, 6), (5.75, 7)), 1.0) == 0.25
    # each step a little short: no two are close, and the window is
    assert shortfall(asked(*((0.75 * place, 9) for place in range(5))), 1.0) == 1.0


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_domain_is_asked_faster_than_the_rate(tmp_path: Path) -> None:
    """Over units, rounds, hosts, redirects and robots.txt; and each address once, by whichever driver."""
    found = write(tmp_path / "web")
    store = tmp_path / "store"
    paced = [f"fetch.rate={RATE}", f"select.schedule.rate={RATE}", f"fetch.per_domain={AT_ONCE}"]
    paced += [f"select.schedule.unit_urls={UNIT_URLS}", "select.choice.coin.keep_single=1"]
    with Server(Lazy(tmp_path / "web"), serving=tmp_path / "serving.json") as server:
        recipe = interleaved(override(small(), [*settings(server), *paced]))
        up_to_fetch(recipe, Ledger(str(store)), tmp_path / "web")  # quicker here than in processes that are new
        with (
            kosmos_run(tmp_path / "web", store, server, *paced) as one,
            kosmos_run(tmp_path / "web", store, server, *paced) as other,
        ):
            ends = []
            for process in (one, other):
                told, _ = process.communicate(timeout=240)
                ends.append((process.returncode, told))
        log, requests = server.log, server.requests
    assert [code for code, _ in ends] == [0, 0], ends
    by_domain = defaultdict(list)
    for request in log:
        by_domain[domains.key(request.url.split("/")[2])].append(request)
    assert set(by_domain) == {f"{name}.example" for name in SITES}
    for name, asked in by_domain.items():
        assert most_at_once(asked) <= AT_ONCE, name
        assert shortfall(asked, 1 / RATE) <= SLACK_S, name
    assert max(map(most_at_once, by_domain.values())) == AT_ONCE, "it could have been more"
    slow = [one for one in by_domain["slow.example"] if not one.url.endswith("/robots.txt")]
    assert shortfall(slow, DELAY_S) <= SLACK_S
    (later,) = [one for one in log if one.status == 429]
    after = [one.began - later.ended for one in by_domain["busy.example"] if one.began > later.ended + SLACK_S]
    assert after and min(after) >= AGAIN_S - SLACK_S
    images = {url: num for url, num in requests.items() if not url.endswith("/robots.txt")}
    assert set(images) == {one.url for one in found} | {one.place for one in found}
    assert {url for url, num in images.items() if num > 1} == {one.url for one in found if one.kind == "busy"}
