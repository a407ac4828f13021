"""The figures for planning: what is measured has the names that planning knows. Not how much it is."""

import os
from pathlib import Path
from typing import Any

import pytest

from apps.conversations.capacity import Costs
from tests.load import costs, stores
from tests.load.costs import Meter, stored_bytes
from tests.load.targets import Chat


@pytest.mark.services
async def test_redis_is_asked_what_presence_and_the_bus_ask_of_it(
    redis_url: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.REDIS_URL = redis_url
    monkeypatch.setattr(stores, "ROUNDS", 2)
    found = await stores.redis_costs()
    assert set(found) < set(Costs.__struct_fields__)
    assert all(value > 0 for value in found.values()), found


def test_what_a_message_takes_on_disk_is_all_files_of_the_log_and_no_others(tmp_path: Path) -> None:
    keyspace = tmp_path / "services" / "cassandra" / "data" / "data" / "chat"
    for table, size in (("message_log-1", costs.STORED * 200), ("conversation_heads-1", 4_000)):
        (keyspace / table).mkdir(parents=True)
        (keyspace / table / "oa-1-big-Data.db").write_bytes(bytes(size))
    assert stored_bytes(tmp_path) == 200 - costs.STORED_BYTES


async def test_what_is_used_when_nobody_does_anything_belongs_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    used, time_s = 0.0, 0.0

    class Server(Chat):
        def processes(self) -> dict[str, list[int]]:
            return {"node": [os.getpid()]}

    async def pass_by(seconds: float) -> None:
        nonlocal used, time_s
        used, time_s = used + 0.25 * seconds, time_s + seconds

    async def work() -> None:
        nonlocal used
        await pass_by(4)
        used += 2

    monkeypatch.setattr(costs, "cpu_s", lambda processes: dict.fromkeys(processes, used))
    monkeypatch.setattr(costs.time, "monotonic", lambda: time_s)
    monkeypatch.setattr(costs.asyncio, "sleep", pass_by)
    meter = Meter(Server("embedded"))
    await meter.rest()
    assert await meter.of(work(), 100) == {"node": pytest.approx(20_000)}
