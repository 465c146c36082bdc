"""Pages made to be dear come to the one verdict that is theirs, and are counted; what they cost is a benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.stage import SIDE, Unit
from pipelines import extract
from pipelines.reasons import Reason
from tests.offline import OfflineWork, collect
from tests.pipelines.hostile_pages import CONFIG, Case, cases


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_hostile_pages_have_one_verdict(tmp_path: Path, case: Case) -> None:
    page = case.page()
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n" + case.head + b"\r\n" + page
    head = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.example/\r\nContent-Length: %d\r\n\r\n"
    path = tmp_path / "a.warc"
    path.write_bytes(head % len(block) + block + b"\r\n\r\n")
    work = OfflineWork(unit=Unit(id="w", inputs=("a", str(path), "CRAWL")), scratch=tmp_path)
    tables = collect(extract.process, CONFIG, work, extract.OUTPUTS)
    rows = tables["verdicts"].to_pylist()
    assert [Reason(row["reason"]).word for row in rows] == [case.verdict]
    assert {reason: num for reason, num in work.counts.items() if SIDE not in reason} == {case.verdict: 1}
