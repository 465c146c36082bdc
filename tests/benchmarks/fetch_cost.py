"""CPU time to fetch an image over HTTPS, decode, resize, hash and store it, beside stock img2dataset, in one run:

    python -m tests.benchmarks.fetch_cost [INDEX.tsv] [--images 1000] [--hosts 100] [--rounds 2]

INDEX.tsv: images with columns file, width and height (files beside it); without it, pictures are generated. The server
is another process on loopback, whose CPU time is not counted. Both trust the same bundle: certifi's and the server's.
Stock asks one host, since it opens a connection for every request anyway; ours asks each host for its robots.txt too.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import resource
import socket
import ssl
import sys
import tempfile
import threading
from multiprocessing import Process
from pathlib import Path

import certifi
import numpy as np
import pyarrow as pa
import trustme

from engine import schema
from engine.stage import Unit
from engine.writer import OutputWriter
from pipelines import fetch
from pipelines.fetch import shard
from tests.offline import OfflineWork

MIN_SIDE = 64
ROBOTS = b"User-agent: *\nCrawl-delay: 0\nDisallow: /wp-admin/\nDisallow: /search\nAllow: /wp-admin/admin-ajax.php\n"


class Frozen(dict[str, pa.Table]):
    """A commit of `schedule`."""

    unit = "list"


def main() -> None:
    """Measure both and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", nargs="?", default="")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    bodies = real(Path(arguments.index), arguments.images) if arguments.index else generated(arguments.images)
    hosts = [f"host{k}.test" for k in range(arguments.hosts)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = trustme.CA()
        bundle = folder / "bundle.pem"
        bundle.write_bytes(Path(certifi.where()).read_bytes() + authority.cert_pem.bytes())
        pair = folder / "pair.pem"
        pair.write_bytes(authority.issue_cert("localhost", *hosts).private_key_and_cert_chain_pem.bytes())
        os.environ["SSL_CERT_FILE"] = str(bundle)
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        server = Process(target=serve, args=(listener, bodies, pair), daemon=True)
        server.start()
        port = listener.getsockname()[1]
        try:
            mean = sum(map(len, bodies)) / len(bodies)
            print(f"{len(bodies):,} images of {mean / 1e3:,.0f} KB, {len(hosts):,} hosts, {arguments.threads} threads")
            best = [(float("inf"), 0)] * 2
            for turn in range(arguments.rounds + 1):
                # the first turn compiles, loads and warms
                num = len(bodies) if turn else min(100, len(bodies))
                results = (
                    ours(folder / f"ours{turn}", port, bundle, hosts, num, arguments.threads),
                    stock(folder / f"stock{turn}", port, num, arguments.threads),
                )
                if turn:
                    best = [min(pair) for pair in zip(best, results, strict=True)]
        finally:
            server.kill()
        (mine, kept), (peer, kept_too) = best
        print(f"kosmos-engine:      {mine:6.2f} ms of CPU an image, {kept:,} stored")
        print(f"img2dataset 1.47.0: {peer:6.2f} ms of CPU an image, {kept_too:,} stored")
        print(f"ratio {peer / mine:.1f}, best of {arguments.rounds} rounds")


def ours(folder: Path, port: int, bundle: Path, hosts: list[str], num: int, threads: int) -> tuple[float, int]:
    """(CPU ms an address, images stored) of a unit of the fetch stage, written as an attempt writes it."""
    folder.mkdir()
    serving = folder / "serving.json"
    serving.write_text(json.dumps({"port": port, "ca_file": str(bundle), "corpus": "bench"}))
    rows = []
    for k in range(num):
        host = hosts[k % len(hosts)]
        url = f"https://{host}/{k}"
        rows.append((0, hashlib.sha256(url.encode()).digest(), url, host, 0))
    columns = zip(*sorted(rows, key=lambda row: row[1]), strict=True)
    table = pa.table([list(column) for column in columns], schema=schema.FETCH_URLS)
    config = fetch.Config(
        egress="loopback_only", corpus="bench", serving=str(serving), rate=0.0, control="", threads=threads
    )
    unit = Unit(id="a" * 24, inputs=("mark", "list", "0"))
    work = OfflineWork(unit=unit, scratch=folder, frozen={("mark", 0): [Frozen(urls=table)]})
    writers = {output.name: OutputWriter(output, folder) for output in fetch.OUTPUTS}
    started = cpu()
    for name, rows_out in fetch.process(unit, config, work):
        writers[name].add(rows_out)
    for writer in writers.values():
        writer.finish()
        writer.sidecar()
    spent = cpu() - started
    return spent / num * 1e3, work.counts["kept"]


def stock(folder: Path, port: int, num: int, threads: int) -> tuple[float, int]:
    """Likewise of img2dataset as it comes, writing Parquet."""
    with shard.seams():
        pass  # imported without its questions to the network
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer
    from img2dataset.writer import ParquetSampleWriter

    folder.mkdir()
    path = folder / "shard.feather"
    table = pa.table({"url": [f"https://localhost:{port}/{k}" for k in range(num)]})
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    started = cpu()
    with contextlib.redirect_stdout(io.StringIO()):
        ok, _ = Downloader(
            sample_writer_class=ParquetSampleWriter,
            resizer=Resizer(256, "keep_ratio", True, encode_quality=95),
            thread_count=threads,
            save_caption=False,
            extract_exif=False,
            output_folder=str(folder),
            column_list=["url"],
            timeout=20,
            number_sample_per_shard=num,
            oom_shard_count=5,
            compute_hash="sha256",
            verify_hash_type=None,
            encode_format="jpg",
            retries=0,
            user_agent_token=None,
            disallowed_header_directives=["noai", "noimageai", "noindex", "noimageindex"],
        )((0, str(path)))
    spent = cpu() - started
    stats = json.loads((folder / "00000_stats.json").read_text())
    if not ok:
        sys.exit("img2dataset failed")
    return spent / num * 1e3, stats["successes"]


def cpu() -> float:
    """CPU seconds of this process, all threads, and of its children that ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def real(index: Path, num: int) -> list[bytes]:
    """Images of an index, those of 64 pixels and more, in an order that mixes their sources."""
    with index.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)]
    large = [row for row in rows if min(int(row["width"] or 0), int(row["height"] or 0)) >= MIN_SIDE]
    large.sort(key=lambda row: hashlib.sha256(row["file"].encode()).digest())
    return [(index.parent / row["file"]).read_bytes() for row in large[:num]]


def generated(num: int) -> list[bytes]:
    """JPEGs of 1,024 x 768 with some detail."""
    import cv2

    bodies = []
    for seed in range(num):
        random = np.random.default_rng(seed)
        coarse = random.integers(0, 255, (24, 32, 3), np.uint8)
        image = cv2.resize(coarse, (1024, 768), interpolation=cv2.INTER_CUBIC)
        image = cv2.add(image, random.integers(0, 24, image.shape, np.uint8))
        bodies.append(bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]))
    return bodies


def serve(listener: socket.socket, bodies: list[bytes], pair: Path) -> None:
    """Answer GET /k with image k, and robots.txt, for ever; a thread a connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)

    def talk(plain: socket.socket) -> None:
        with (
            contextlib.suppress(OSError, ValueError, IndexError),
            context.wrap_socket(plain, server_side=True) as client,
        ):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = client.makefile("rb")
            while line := reader.readline():
                closing = False
                while (header := reader.readline()) not in (b"\r\n", b""):
                    closing |= header.lower().startswith(b"connection: close")
                path = line.split()[1]
                body = ROBOTS if path == b"/robots.txt" else bodies[int(path[1:])]
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                if closing:
                    return

    while True:
        plain, _ = listener.accept()
        threading.Thread(target=talk, args=(plain,), daemon=True).start()


if __name__ == "__main__":
    main()
