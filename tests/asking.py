"""The first bundled crawl in processes without Ray, for tests to kill: `python -m tests.asking STORE WEB SETTING...`.

Each line on its input is a run, in a process of its own: it says the process id, then how that ended. The runs are
forked from here, where nothing runs yet and all modules are loaded, which takes longer than what is left to do.
"""

from __future__ import annotations

import os
import sys
import traceback

from engine.config import override
from engine.ledger import Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Recipe
from engine.window import Options, run
from pipelines import snapshot
from pipelines.kosmos import interleaved, small
from pipelines.smallweb import CRAWLS


def ask(url: str, web: str, recipe: Recipe) -> None:
    """Take in the first crawl, or what is left of it."""
    ledger = Ledger(url)
    ledger.check(create=True)
    units = snapshot.units(snapshot.Inputs(crawl=CRAWLS[0], mirror=web), ledger)
    run(recipe, ledger, units, InlinePool(url), Quiet(), Options())


def main(url: str, web: str, given: list[str]) -> None:
    """A run for each line."""
    from pipelines.fetch import shard

    recipe = interleaved(override(small(), given))
    with shard.seams():
        pass
    for _ in sys.stdin:
        pid = os.fork()
        if not pid:
            try:
                ask(url, web, recipe)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
