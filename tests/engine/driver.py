"""The tested recipe in a process of its own, for tests to kill: `python -m tests.engine.driver STORE UNITS SCRATCH`.

UNITS is a JSON file. Prints the reports as one JSON line; the exit code is a command's. With a fourth argument "lose"
it runs on a cluster of three nodes and takes one of them away while a unit is at its gate.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from engine.drive import drive
from engine.errors import KosmosError
from engine.ledger import Ledger
from engine.stage import Unit
from engine.window import Options
from tests import stages


def write_units(units: list[Unit], path: Path) -> Path:
    """The file that the driver reads."""
    path.write_text(json.dumps([dataclasses.asdict(unit) for unit in units]))
    return path


def main(url: str, units_path: str, scratch: str, lose: bool) -> int:
    """Run to the end; exit codes as the command line's."""
    units = [Unit(**{**raw, "inputs": tuple(raw["inputs"])}) for raw in json.loads(Path(units_path).read_text())]
    if lose:
        _lose_a_node(Path(scratch))
    try:
        reports = drive(stages.recipe(), Ledger(url), units, Options(scratch=scratch), workers=2)
    except KosmosError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps([{**dataclasses.asdict(report), "complete": report.complete} for report in reports]))
    return 0 if all(report.complete for report in reports) else 1


def _lose_a_node(gate: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    small: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20}
    doomed = cluster.add_node(**small)
    cluster.add_node(**small)
    ray.init(address=cluster.address, log_to_driver=False)

    def act() -> None:
        while len(list(gate.glob("here.*"))) < 2:
            time.sleep(0.05)
        cluster.remove_node(doomed, allow_graceful=False)
        (gate / "go").touch()

    threading.Thread(target=act, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:] == ["lose"]))
