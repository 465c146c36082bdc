"""`sheet`: curated documents as they read, and what was refused beside them, on one page that a person looks at.

    frozen     manifest digests -> commits of assemble, and what each of their generations read
    documents  a uniform sample of curated rows, by range reads
    rejects    refused images, a sample over reasons, with the JPEG where one is stored
    totals     the funnel and the sums
    page       all of it as HTML: no script, no request, every word of the data escaped

The same digests and seed give the same bytes: nothing on the page is of the clock of whoever draws it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.chain import frozen as published
from engine.errors import ConfigError, StoreError
from engine.ledger import Ledger
from engine.recipe import Recipe
from engine.store import Store, local_path
from pipelines.sheet import documents, page, rejects, totals
from pipelines.sheet.frozen import opened

MOST = 1000  # documents, and images: what a person looks at and a browser shows


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """The page, and how much of what there is it shows. body: HTML in UTF-8."""

    body: bytes
    documents: int
    all_documents: int
    rejects: int
    all_rejects: int


def sheet(
    recipe: Recipe,
    ledger: Ledger,
    digests: Sequence[str],
    num_documents: int = 50,
    num_rejects: int = 50,
    seed: int = 0,
) -> Sheet:
    """Draw the contact sheet of manifests of assemble, of all published generations if none is named. ConfigError for
    what is no such manifest, holds nothing, or is of other settings."""
    for name, num in (("documents", num_documents), ("rejects", num_rejects)):
        if not 0 <= num <= MOST:
            raise ConfigError(f"--{name} is {num}; give 0 to {MOST}")
    found = opened(recipe, ledger, digests or published(recipe, ledger, "assemble"))
    sums = totals.totals(found, seed)
    if not sums.documents and not sums.refused:
        raise ConfigError(
            f"{', '.join(found.digests)} holds no document and no image; `kosmos status {recipe.name}` shows what went "
            "where"
        )
    sample = documents.sample(found, num_documents, seed)
    refused = rejects.sample(found, num_rejects, seed)
    drawn = page.page(found, sums, sample, refused, seed)
    return Sheet(
        body=drawn.body,
        documents=drawn.documents,
        all_documents=sums.documents,
        rejects=drawn.rejects,
        all_rejects=sum(sums.refused.values()),
    )


def write(out: str, body: bytes) -> None:
    """Put the page at a path or an address, whole or not at all, over an older one. ConfigError or StoreError if it
    cannot be put there."""
    if "://" in out and local_path(out) is None:
        root, _, name = out.rpartition("/")
        Store(root).put(name, body)
        return
    path = local_path(out) or Path(out)
    if path.is_dir():
        raise ConfigError(f"{out} is a folder; give -o a file, as {path / 'sheet.html'}")
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:64]}.")
        with os.fdopen(handle, "wb") as file:
            file.write(body)
        # mkstemp's are for its owner alone
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise StoreError(f"{out} cannot be written: {error.strerror or error}; give -o another place") from None
