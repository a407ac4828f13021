"""Faults of the parts: nodes, stores, broker and disk."""

import asyncio
import shutil
import signal
import sqlite3
from contextlib import suppress
from pathlib import Path

from tests.chaos.rows import EMBEDDED, FULL, Row, adding_to
from tests.chaos.scene import Failed, Scene, all_at_once
from tests.system.servers import Node, eventually

FAILPOINTS = [
    "received",
    "checked",
    "storing",
    "committing",
    "stored",
    "told-here",
    "told",
    "handing-over",
    "handed-over",
    "acking",
]
PUSH_FAILPOINTS = ["pushing", "pushed", "push-settled"]  # in the workers
SQLITE_ONLY = {"committing"}
RESTART = 1012
TURN_S = 150  # until one of two workers has had a batch: there is one every 10 s, and the other may take it

ROWS: list[Row] = []
row = adding_to(ROWS)


# --- nodes -----------------------------------------------------------------------------------------------------------
@row("nodes", "a node dies between two steps of a send")
async def node_dies(scene: Scene) -> None:
    places = [place for place in FAILPOINTS if scene.world.stack == "embedded" or place not in SQLITE_ONLY]
    # Each place on SQLite, in short; starting a node takes its time.
    places = scene.random.sample(places, scene.size(len(places) if scene.world.stack == "embedded" else 2, 4))
    one, other = scene.pick(2)
    await all_at_once(_dies_at(scene, one, places[::2]), _dies_at(scene, other, places[1::2]))


async def _dies_at(scene: Scene, node: Node, places: list[str]) -> None:
    await scene.world.kill_node(node)
    for place in places:
        await scene.world.start_node(node, f"{place}:{scene.random.randint(1, 4)}")
        await scene.move(6)
        process = node.process
        try:
            await eventually(lambda process=process: process.poll() is not None, 60)
        except AssertionError:
            if scene.alone:
                raise Failed(f"{node.name} never came to {place}") from None
            await scene.world.kill_node(node)
            scene.note(f"{node.name} did not come to {place}")
        scene.world.mark_down(node)
        scene.strikes(f"{node.name} died at {place}")
        if process.returncode != -signal.SIGKILL:
            raise Failed(f"{node.name} ended with {process.returncode} at {place}")
    await scene.world.start_node(node)


@row("nodes", "a node freezes, and comes back as a zombie")
async def node_freezes(scene: Scene) -> None:
    (node,) = scene.pick()
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)
    scene.world.mark_down(node)
    scene.strikes(f"{node.name} is frozen")
    try:
        await scene.goes_on()
        await scene.hold(8, 12)  # its lease is of 6 s
    finally:
        node.process.send_signal(signal.SIGCONT)


@row("nodes", "the nodes are restarted one by one")
async def rolling_restart(scene: Scene) -> None:
    closed = {person.name: len(person.close_codes) for person in scene.people}
    for node in scene.world.nodes:
        code = await scene.world.drain_node(node)
        scene.note(f"{node.name} is drained")
        if code != 0:
            raise Failed(f"{node.name} ended with {code}")
        await scene.world.start_node(node)
    if scene.alone:
        codes = {code for person in scene.people for code in person.close_codes[closed[person.name] :]}
        if codes != {RESTART}:
            raise Failed(f"sockets were closed with {codes}, not with {RESTART}")


# --- Redis -----------------------------------------------------------------------------------------------------------
@row("redis", "Redis is emptied")
async def redis_emptied(scene: Scene) -> None:
    for _ in range(scene.size(2, 4)):
        with scene.world.redis as redis:
            # On the embedded stack it is the broker too, in another database; that one is no hint.
            redis.flushall() if scene.world.stack == "full" else redis.flushdb()
        scene.strikes("Redis is empty")
        await scene.goes_on()
        await scene.hold(1, 5)


@row("redis", "Redis is killed and started again")
async def redis_restarted(scene: Scene) -> None:
    await scene.world.kill_service("REDIS_URL")
    scene.strikes("Redis is killed")
    await scene.hold(0.5, 3)
    await scene.world.start_service("REDIS_URL")
    scene.note("Redis runs")


@row("redis", "Redis is away")
async def redis_away(scene: Scene) -> None:
    line = scene.world.lines["REDIS_URL"]
    breaking = scene.random.choice([line.refuse, line.hold])
    breaking()
    scene.strikes(f"Redis: {breaking.__name__}")
    await scene.hold(4, 20)
    await line.mend()


@row("redis", "Redis comes back with an older state")
async def redis_restored(scene: Scene) -> None:
    scene.pushes_may_be_lost = scene.world.stack == "embedded"  # with the broker's tasks, which were in it too
    service = scene.world.services["REDIS_URL"]
    data, older = service.home / "appendonlydir", service.home / "older"
    await asyncio.to_thread(shutil.copytree, data, older)
    await scene.move(8)
    await scene.goes_on(40)
    await scene.world.kill_service("REDIS_URL")
    await asyncio.to_thread(shutil.rmtree, data)
    older.rename(data)
    await scene.world.start_service("REDIS_URL")
    scene.strikes("Redis is as it was")


@row("redis", "connections to Redis are cut")
async def redis_cut(scene: Scene) -> None:
    for _ in range(scene.size(3, 8)):
        kind = scene.random.choice(["pubsub", "pubsub", "normal"])
        with scene.world.redis as redis:
            redis.client_kill_filter(_type=kind, skipme=True)
        scene.strikes(f"connections of type {kind} are cut")
        await scene.hold(0.7, 3)
        await scene.goes_on()


# --- the history -----------------------------------------------------------------------------------------------------
@row("history", "Cassandra freezes", FULL)
async def cassandra_freezes(scene: Scene) -> None:
    scene.world.signal_service("CASSANDRA_URL", signal.SIGSTOP)
    scene.strikes("Cassandra is frozen")
    try:
        await scene.hold(4, 12)
    finally:
        scene.world.signal_service("CASSANDRA_URL", signal.SIGCONT)


@row("history", "Cassandra is killed and started again", FULL)
async def cassandra_killed(scene: Scene) -> None:
    await scene.world.kill_service("CASSANDRA_URL")
    scene.note("Cassandra is killed")
    await scene.world.start_service("CASSANDRA_URL")
    scene.note("Cassandra runs")


@row("history", "Cassandra answers late, and connections are cut", FULL)
async def cassandra_late(scene: Scene) -> None:
    line = scene.world.lines["CASSANDRA_URL"]
    for _ in range(scene.size(2, 4)):
        seconds = scene.random.uniform(0.1, 1.5)
        line.slow_down(seconds)
        scene.note(f"answers take {seconds:.2f} s")
        await scene.hold(1.5, 5)
        line.abort()
        scene.note("connections are cut")
    await line.mend()


@row("history", "Cassandra writes, and its answers are lost", FULL)
async def cassandra_answers_lost(scene: Scene) -> None:
    line = scene.world.lines["CASSANDRA_URL"]
    line.lose_answers()
    scene.strikes("answers are lost")
    await scene.hold(4, 12)
    await line.mend()


@row("history", "the history is locked", EMBEDDED)
async def history_locked(scene: Scene) -> None:
    await _locked(scene, scene.world.data / "history.sqlite3")


# --- the database and the broker -------------------------------------------------------------------------------------
@row("database", "the accounts database is locked", EMBEDDED)
async def database_locked(scene: Scene) -> None:
    await _locked(scene, scene.world.data / "chat.sqlite3")


async def _locked(scene: Scene, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None, timeout=20)
    try:
        other.execute("BEGIN IMMEDIATE")
        scene.note(f"{path.name} is locked")
        await scene.hold(3, 12)
        other.execute("ROLLBACK")
    finally:
        other.close()


@row("database", "PostgreSQL is away", FULL)
async def postgres_away(scene: Scene) -> None:
    await _away(scene, "DATABASE_URL")


@row("broker", "RabbitMQ is away", FULL)
async def rabbitmq_away(scene: Scene) -> None:
    await _away(scene, "BROKER_URL")


@row("workers", "a worker dies between two steps of a push")
async def worker_dies(scene: Scene) -> None:
    worker = scene.random.choice(scene.world.workers)
    place = scene.random.choice(PUSH_FAILPOINTS)
    await asyncio.to_thread(worker.kill)
    await asyncio.to_thread(worker.start, place)
    try:
        await eventually(lambda: worker.process is not None and worker.process.poll() is not None, TURN_S)
    except AssertionError:
        if scene.alone:
            raise Failed(f"no worker came to {place}") from None
        await asyncio.to_thread(worker.kill)
        await asyncio.to_thread(worker.start)
        scene.note(f"no worker came to {place}")
        return
    scene.note(f"a worker died at {place}")
    await scene.goes_on()


async def _away(scene: Scene, name: str) -> None:
    """Members who are known go on sending."""
    line = scene.world.lines[name]
    line.refuse()
    scene.strikes("it is away")
    await scene.goes_on()
    await scene.hold(3, 20)
    await scene.goes_on()
    await line.mend()


# --- the disk --------------------------------------------------------------------------------------------------------
@row("disk", "the disk is full", EMBEDDED)
async def disk_full(scene: Scene) -> None:
    if not scene.world.has_small_disk:
        scene.note("not played: this process may not mount a small disk")  # the test skips it
        return
    filler = scene.world.data / "filler"
    try:
        await asyncio.to_thread(_fill, filler)
        scene.note("the disk is full")
        await _something_is_refused(scene)
        await scene.hold(3, 10)
    finally:
        filler.unlink(missing_ok=True)


async def _something_is_refused(scene: Scene) -> None:
    """Not at once: SQLite's log may have room in a file that it has, and asks for more only when that is used up."""

    def refused() -> int:
        return sum(len(person.refused) for person in scene.people)

    before = refused()
    try:
        await eventually(lambda: refused() > before, 60)
    except AssertionError:
        if scene.alone:
            raise Failed("nothing was refused, although nothing can be stored") from None


def _fill(filler: Path) -> None:
    chunk = 1_000_000
    with filler.open("wb", buffering=0) as file:
        while chunk:
            with suppress(OSError):
                while file.write(bytes(chunk)) == chunk:
                    pass
            chunk //= 10
