"""Ray is connected to, and only what was started is stopped."""

from __future__ import annotations

from typing import Any

import pytest

from engine.cluster import connect
from engine.pool import RayPool, Task
from tests import stages
from tests.engine.test_face import python


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_an_address_at_which_nobody_answers_is_a_config_error(address: str) -> None:
    program = (
        f"import os; os.environ['RAY_ADDRESS'] = {address!r}\n"
        "from engine.cluster import connect; from engine.errors import ConfigError\n"
        "try:\n    with connect(): pass\n"
        "except ConfigError as error: print(error)\n"
    )
    said = python(program)
    assert "RAY_ADDRESS" in said and said.count("\n") == 1, said


@pytest.mark.ray
def test_a_ray_that_runs_is_used_and_left_alone(ray_session: Any) -> None:
    with connect() as ray:
        assert ray is ray_session and ray.cluster_resources()["CPU"] == 2
    assert ray_session.is_initialized()


@pytest.mark.ray
def test_the_pool_gives_outcomes_and_knows_deaths(ray_session: Any, tmp_path: Any) -> None:
    pool = RayPool(ray_session, f"file://{tmp_path}/store", str(tmp_path / "scratch"))
    assert pool.width() == 2 and pool.wait(0.1) == []
    stage = stages.numbers_stage()
    good, bad = (Task(stage=stage, unit=unit) for unit in stages.units(2, f"die:1:{tmp_path}/die", at=1))
    ended: dict[str, Any] = {}
    for task in (good, bad):
        pool.submit(task)
    while len(ended) < 2:
        ended.update({task.unit.id: outcome for task, outcome in pool.wait(5.0)})
    assert ended["u0000"].state == "committed" and ended["u0000"].rows == 50
    assert "WorkerCrashed" in ended["u0001"]
    pool.submit(Task(stage=stage, unit=bad.unit, deaths=1))
    (again,) = [outcome for _ in range(60) for _, outcome in pool.wait(1.0)]
    assert not isinstance(again, str) and again.state == "committed"


@pytest.mark.ray
def test_what_is_cancelled_is_gone(ray_session: Any, tmp_path: Any) -> None:
    pool = RayPool(ray_session, f"file://{tmp_path}/store", str(tmp_path / "scratch"))
    for unit in stages.units(3, "sleep:50"):
        pool.submit(Task(stage=stages.numbers_stage(), unit=unit))
    assert pool.wait(0.5) == []
    pool.cancel()
    assert pool.wait(0.5) == []
    # the workers are free for others at once
    pool.submit(Task(stage=stages.numbers_stage(), unit=stages.units(1, first=9)[0]))
    (outcome,) = [outcome for _ in range(40) for _, outcome in pool.wait(1.0)]
    assert not isinstance(outcome, str) and outcome.state == "committed"
