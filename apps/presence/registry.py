"""
Who is on which node, in Redis. Only ever a hint: what it loses, the nodes put back and resync.

Three rosters have the same shape, user -> the nodes that have something to do with them: `online` (nodes that hold a
socket of the user), `away` (those on which none of these sockets is being used) and `watchers` (nodes that hold a
socket which wants to hear of the user's status). An entry expires by itself; its node refreshes it every 15 s.
"""

import asyncio
import hashlib
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from redis.exceptions import NoScriptError

from apps.accounts import aio
from apps.presence.pipe import Pipe
from apps.presence.recent import Recent
from apps.presence.status import ENTRY_TTL_S, LEASE_TTL_S

CLAIM_S = 10
MAX_KEYS_PER_CALL = 1_000


class Script:
    """A Lua file."""

    def __init__(self, name: str) -> None:
        self._text = (Path(__file__).parent / "lua" / f"{name}.lua").read_text()
        self._sha = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    async def carry_out(self, pipe: Pipe, keys: Collection[str], *args: Any) -> Any:
        """Always with its text: a second try could put a `depart` behind the `arrive` that was asked meanwhile."""
        return await pipe.execute("EVAL", self._text, len(keys), *keys, *args)

    async def look_up(self, pipe: Pipe, keys: Collection[str], *args: Any) -> Any:
        """One that changes nothing: by its hash, and with its text when Redis does not know it (yet, or any more)."""
        try:
            return await pipe.execute("EVALSHA", self._sha, len(keys), *keys, *args)
        except NoScriptError:
            return await self.carry_out(pipe, keys, *args)


_arrive, _depart, _nodes_of = Script("arrive"), Script("depart"), Script("nodes_of")
_lease, _claim_dead = Script("lease"), Script("claim_dead")


def now_ms() -> int:
    return int(time.time() * 1000)


class Roster:
    def __init__(self, pipe: Pipe, name: str) -> None:
        self._pipe = pipe
        self._name = name

    def _key(self, user: str) -> str:
        return f"{self._name}:{user}"

    def _held_by(self, node: str) -> str:
        return f"node-{self._name}:{node}"

    async def arrive(self, node: str, users: Collection[str]) -> set[str]:
        """These users are on `node` for the next 45 s; returns those who were on no node before."""
        now = now_ms()
        came: set[str] = set()
        for part in _parts(users):
            keys = [self._held_by(node), *map(self._key, part)]
            came |= _strings(await _arrive.carry_out(self._pipe, keys, node, now, now + ENTRY_TTL_S * 1000, *part))
        return came

    async def depart(self, node: str, users: Collection[str]) -> set[str]:
        """
        These users are no longer on `node`; returns those who are on no node now.

        Who arrives after this was asked stays, even if this is carried out later: after a lost connection it may be.
        """
        now = now_ms()
        gone: set[str] = set()
        for part in _parts(users):
            keys = [self._held_by(node), *map(self._key, part)]
            gone |= _strings(await _depart.carry_out(self._pipe, keys, node, now, now + ENTRY_TTL_S * 1000, *part))
        return gone

    async def nodes_of(self, users: Collection[str]) -> dict[str, list[str]]:
        """The nodes of each user, empty for one who is nowhere. Raises RedisError."""
        found: dict[str, list[str]] = {}
        for part in _parts(users):
            rows = await _nodes_of.look_up(self._pipe, [self._key(user) for user in part], now_ms())
            found |= {user: [node.decode() for node in row] for user, row in zip(part, rows, strict=True)}
        return found

    async def held_by(self, node: str) -> set[str]:
        return _strings(await self._pipe.execute("SMEMBERS", self._held_by(node)))


class NodeInfo(msgspec.Struct, frozen=True):
    """What a node says of itself with every renewal of its lease."""

    name: str
    boot: str
    host: str
    pid: int
    started_at: str
    connections: int
    users: int


class Registry:
    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self.online = Roster(pipe, "online")
        self.away = Roster(pipe, "away")
        self.watchers = Roster(pipe, "watchers")
        self.recent = Recent(pipe)
        self._asking: dict[int, tuple[Collection[UUID], asyncio.Task[dict[str, list[UUID]]]]] = {}
        self._departures = -1  # the pipe's count when these asked

    async def renew_lease(self, node: str, count: int, info: NodeInfo) -> bool:
        """Say that `node` lives, for the `count`th time; False when Redis does not remember the time before."""
        before = await _lease.carry_out(
            self._pipe,
            [f"lease:{node}", "nodes", "node-info"],
            node,
            count,
            now_ms() + LEASE_TTL_S * 1000,
            LEASE_TTL_S * 1000,
            msgspec.json.encode(info),
        )
        return bool(before == count - 1)

    async def end_lease(self, node: str) -> None:
        await self._pipe.execute("DEL", f"lease:{node}")
        await self._pipe.execute("ZREM", "nodes", node)
        await self._pipe.execute("HDEL", "node-info", node)

    async def claim_dead(self) -> str | None:
        """A node whose lease has ended and whose users this caller alone now has to take offline."""
        dead = await _claim_dead.carry_out(self._pipe, ["nodes"], now_ms(), now_ms() + CLAIM_S * 1000)
        return dead.decode() if dead else None

    async def live_nodes(self) -> list[str]:
        return [node.decode() for node in await self._pipe.execute("ZRANGEBYSCORE", "nodes", now_ms(), "+inf")]

    async def nodes(self) -> list[NodeInfo]:
        """What the live nodes say of themselves, by name."""
        live = await self.live_nodes()
        if not live:
            return []
        rows = await self._pipe.execute("HMGET", "node-info", *live)
        return sorted((msgspec.json.decode(row, type=NodeInfo) for row in rows if row), key=lambda node: node.name)

    async def nodes_of(self, user_ids: Iterable[UUID]) -> dict[UUID, list[str]]:
        names = {str(user_id): user_id for user_id in user_ids}
        found = await self.online.nodes_of(names)
        return {names[user]: nodes for user, nodes in found.items()}

    async def holders(self, user_ids: Collection[UUID]) -> Mapping[str, Sequence[UUID]]:
        """
        The nodes that hold any of these users, each with those whom it holds. Raises RedisError.

        Messages that were stored together ask together: who asks for the same people, by the same object, before the
        question has left for Redis, shares its answer. Later would be too late, as somebody may have arrived since.
        """
        if self._departures != self._pipe.departures:
            self._asking.clear()
            self._departures = self._pipe.departures
        if id(user_ids) not in self._asking:
            asked = asyncio.create_task(self._find_holders(user_ids))
            asked.add_done_callback(aio.retrieve)
            self._asking[id(user_ids)] = user_ids, asked
        _, answer = self._asking[id(user_ids)]
        return await asyncio.shield(answer)

    async def _find_holders(self, user_ids: Collection[UUID]) -> dict[str, list[UUID]]:
        holders: defaultdict[str, list[UUID]] = defaultdict(list)
        for user_id, nodes in (await self.nodes_of(user_ids)).items():
            for node in nodes:
                holders[node].append(user_id)
        return holders

    async def attentive(self, user_ids: Iterable[UUID]) -> set[UUID]:
        """Those of these users who are on some node, and not away from all that they have open. Raises RedisError."""
        users = [str(user_id) for user_id in user_ids]
        online, away = await self.online.nodes_of(users), await self.away.nodes_of(users)
        return {UUID(user) for user in users if set(online[user]) - set(away[user])}


def _parts(users: Collection[str]) -> Iterable[list[str]]:
    ordered = list(users)
    for start in range(0, len(ordered), MAX_KEYS_PER_CALL):
        yield ordered[start : start + MAX_KEYS_PER_CALL]


def _strings(values: Iterable[bytes]) -> set[str]:
    return {value.decode() for value in values}
