"""
Redis in memory: the commands and scripts that presence uses, and what it does with messages.

The scripts are said again in Python; tests/presence/test_registry.py holds them against the Lua files on a real server.
"""

import copy
import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeout

from apps.presence import registry
from tests.simulation.scheduler import Process, Scheduler
from tests.simulation.services import Service

LUA = Path(registry.__file__).parent / "lua"


class Subscription:
    """One node's connection for messages. Whoever publishes counts it as long as Redis believes that it is there."""

    def __init__(self, scheduler: Scheduler, process: Process, take: Callable[[Any], None]) -> None:
        self._scheduler, self._process, self._take = scheduler, process, take
        self._last = 0.0
        self.is_deaf = False  # Redis takes it for connected, and nothing arrives
        self.is_cut = False

    def push(self, message: Any) -> None:
        if self.is_deaf:
            return
        self._last = max(self._last, self._scheduler.now + 0.0005 + 0.002 * self._scheduler.random.random())
        self._scheduler.at(self._last, self._process, self._arrive, message)

    def _arrive(self, message: Any) -> None:
        if not self.is_cut:
            self._take(message)


class Redis:
    """`now_ms` is the clock by which keys expire."""

    def __init__(self, now_ms: Callable[[], float]) -> None:
        self._now_ms = now_ms
        self._data: dict[str, Any] = {}
        self._expiry: dict[str, float] = {}
        self._known_scripts: set[str] = set()
        self._scripts = {
            _text("arrive"): self._arrive,
            _text("depart"): self._depart,
            _text("nodes_of"): self._nodes_of,
            _text("lease"): self._lease,
            _text("claim_dead"): self._claim_dead,
        }
        self.subscribers: dict[str, list[Subscription]] = {}

    # --- what happens to it ------------------------------------------------------------------------------------------
    def flush(self) -> None:
        self._data.clear()
        self._expiry.clear()

    def forget_scripts(self) -> None:
        self._known_scripts.clear()

    def snapshot(self) -> Any:
        return copy.deepcopy((self._data, self._expiry))

    def restore(self, snapshot: Any) -> None:
        self._data, self._expiry = copy.deepcopy(snapshot)

    # --- commands ----------------------------------------------------------------------------------------------------
    def carry_out(self, command: tuple[Any, ...]) -> Any:
        name, *args = command
        return getattr(self, f"_do_{name.lower()}")(*args)

    def _do_evalsha(self, sha: str, keys: int, *args: Any) -> Any:
        text = next((text for text in self._known_scripts if _sha(text) == sha), None)
        if text is None:
            raise NoScriptError("NOSCRIPT")
        return self._scripts[text](args[:keys], args[keys:])

    def _do_eval(self, text: str, keys: int, *args: Any) -> Any:
        self._known_scripts.add(text)
        return self._scripts[text](args[:keys], args[keys:])

    def _do_publish(self, channel: str, message: Any) -> int:
        subscribers = self.subscribers.get(channel, [])
        for each in subscribers:
            each.push(message)
        return len(subscribers)

    def _do_smembers(self, key: str) -> list[bytes]:
        return _bytes(sorted(self._get(key, set())))

    def _do_del(self, key: str) -> int:
        self._expiry.pop(key, None)
        return int(self._data.pop(key, None) is not None)

    def _do_zadd(self, key: str, score: float, member: Any) -> int:
        members = self._made(key, {})
        is_new = member not in members
        members[member] = score
        return int(is_new)

    def _do_zrem(self, key: str, member: Any) -> int:
        return int(self._get(key, {}).pop(member, None) is not None)

    _do_hdel = _do_zrem

    def _do_zrangebyscore(self, key: str, low: Any, high: Any) -> list[bytes]:
        scores = self._get(key, {}).items()
        return _bytes(member for member, score in _by_score(scores) if float(low) <= score <= float(high))

    def _do_hmget(self, key: str, *fields: str) -> list[Any]:
        return [self._get(key, {}).get(field) for field in fields]

    # --- scripts -----------------------------------------------------------------------------------------------------
    def _arrive(self, keys: tuple[str, ...], args: tuple[Any, ...]) -> list[bytes]:
        node, now, expiry, *users = args
        came = []
        held = self._made(keys[0], set())
        for key, user in zip(keys[1:], users, strict=True):
            entries = self._made(key, {})
            for other in [other for other, until in entries.items() if until <= now]:
                del entries[other]
            if not entries:
                came.append(user)
            entries[node] = expiry
            self._expiry[key] = self._now_ms() + expiry - now
            held.add(user)
        self._expiry[keys[0]] = self._now_ms() + 86_400_000
        return _bytes(came)

    def _depart(self, keys: tuple[str, ...], args: tuple[Any, ...]) -> list[bytes]:
        node, now, newest, *users = args
        gone = []
        held = self._get(keys[0], set())
        for key, user in zip(keys[1:], users, strict=True):
            entries = self._get(key, {})
            if entries.get(node, 0) > newest:
                continue
            was_here = entries.pop(node, None) is not None
            held.discard(user)
            if was_here and not any(until > now for until in entries.values()):
                gone.append(user)
        return _bytes(gone)

    def _nodes_of(self, keys: tuple[str, ...], args: tuple[Any, ...]) -> list[list[bytes]]:
        return [_bytes(node for node, until in self._get(key, {}).items() if until > args[0]) for key in keys]

    def _lease(self, keys: tuple[str, ...], args: tuple[Any, ...]) -> int:
        lease, nodes, infos = keys
        node, number, until, ttl, info = args
        before = self._get(lease, -1)
        self._data[lease], self._expiry[lease] = number, self._now_ms() + ttl
        self._made(nodes, {})[node] = until
        self._made(infos, {})[node] = info
        return int(before)

    def _claim_dead(self, keys: tuple[str, ...], args: tuple[Any, ...]) -> bytes | None:
        now, until = args
        nodes = self._get(keys[0], {})
        dead = min(((score, node) for node, score in nodes.items() if score <= now), default=None)
        if dead is None:
            return None
        _, name = dead
        nodes[name] = until
        return bytes(name.encode())

    # --- keys --------------------------------------------------------------------------------------------------------
    def _get(self, key: str, otherwise: Any) -> Any:
        if key in self._expiry and self._expiry[key] <= self._now_ms():
            del self._expiry[key]
            self._data.pop(key, None)
        return self._data.get(key, otherwise)

    def _made(self, key: str, empty: Any) -> Any:
        return self._data.setdefault(key, self._get(key, empty))


class Wire:
    """As in presence/pipe.py, to whatever Redis there is when it is asked."""

    def __init__(self, service: Callable[[], Service], redis: Callable[[], Redis]) -> None:
        self._service, self._redis = service, redis

    async def carry_out(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        redis = self._redis()
        return list(await self._service().ask(lambda: [_reply(redis, command) for command in commands]))

    async def close(self) -> None:
        """Nothing is open."""


def _reply(redis: Redis, command: tuple[Any, ...]) -> Any:
    try:
        return redis.carry_out(command)
    except RedisError as error:
        return error


def service(scheduler: Scheduler) -> Service:
    return Service("Redis", scheduler, away=lambda: RedisAway("away"), lost=lambda: RedisTimeout("lost"))


def _by_score(scores: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted(scores, key=lambda each: (each[1], each[0]))


def _bytes(values: Iterable[str]) -> list[bytes]:
    return [value.encode() for value in values]


@cache
def _text(name: str) -> str:
    return (LUA / f"{name}.lua").read_text()


@cache
def _sha(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
