"""
The bus between nodes: Channels' Redis pub/sub layer, with the two things that nothing-is-lost needs.

`send` returns how many subscribers Redis handed the message to (0: that node is dead), and a subscription that was cut
and came back calls `on_reconnect`, because what was published in between is gone without a trace.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from channels_redis.pubsub import RedisPubSubChannelLayer, RedisPubSubLoopLayer, RedisSingleShardConnection
from channels_redis.utils import _wrap_close
from redis.exceptions import RedisError

from apps.presence import metrics
from apps.presence.pipe import Pipe, RedisWire

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000  # messages that the router has not got to
NODES_GROUP = "nodes"  # every node listens to it; accounts announces ended sessions there


class ChannelLayer(RedisPubSubChannelLayer):
    """CONFIG: url."""

    def __init__(self, url: str) -> None:
        # redis-py's default socket_timeout of 5 s would end every subscription that is quiet for so long
        super().__init__(hosts=[{"address": url, "socket_timeout": None}], prefix="chat")
        self._url = url

    def pipe(self) -> Pipe:
        """The running loop's connection for commands."""
        return self._get_layer().pipe

    async def send(self, channel: str, message: dict[str, Any]) -> int:
        """Returns the number of subscribers. Raises RedisError when Redis did not take it."""
        return await self.publish(channel, message)

    def publish(self, channel: str, message: dict[str, Any]) -> "asyncio.Future[int]":
        """The same, queued at once: messages go out in the order of the calls."""
        return self.pipe().enqueue("PUBLISH", channel, self.serialize(message))

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Raises RedisError, within seconds."""
        name = self._get_layer()._get_group_channel_name(group)
        await self.pipe().execute("PUBLISH", name, self.serialize(message))

    async def subscribe(self, channel: str, group: str) -> None:
        """Let `receive(channel)` have what is sent to channel and group. Raises RedisError; may be repeated."""
        layer = self._get_layer()
        layer.channels.setdefault(channel, asyncio.Queue(MAX_WAITING))
        await layer._get_shard(channel).subscribe(channel)
        await layer.group_add(group, channel)

    def on_reconnect(self, channel: str, callback: Callable[[], None]) -> None:
        """Call `callback` whenever this loop's subscription to `channel` was cut and is back."""
        self._get_layer().shard.reconnected[channel.encode()] = callback

    def _get_layer(self) -> "_LoopLayer":
        loop = asyncio.get_running_loop()
        if loop not in self._layers:
            self._layers[loop] = _LoopLayer(self._url, *self._args, **self._kwargs, channel_layer=self)
            _wrap_close(self, loop)
        return self._layers[loop]


class _LoopLayer(RedisPubSubLoopLayer):
    """What belongs to one event loop; flushed by Channels when that loop is closed."""

    def __init__(self, url: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pipe = Pipe(RedisWire(url))
        self.shard = _Shard(self._shards[0].host, self)
        self._shards = [self.shard]

    async def flush(self) -> None:
        await super().flush()
        await self.pipe.close()


class _Shard(RedisSingleShardConnection):
    def __init__(self, host: dict[str, Any], channel_layer: RedisPubSubLoopLayer) -> None:
        super().__init__(host, channel_layer)
        self.reconnected: dict[bytes, Callable[[], None]] = {}
        self._confirmed: set[bytes] = set()

    async def _do_receiving(self) -> None:
        while True:
            try:
                if self._pubsub and self._pubsub.subscribed:
                    self._take(await self._pubsub.get_message(timeout=1))
                else:
                    await asyncio.sleep(0.02)
            except (RedisError, OSError) as error:
                logger.warning("subscription broken, trying again: %s", error)
                await asyncio.sleep(0.1)

    def _take(self, message: dict[str, Any] | None) -> None:
        match message:
            case None:
                pass
            case {"type": "message"}:
                try:
                    self._receive_message(message)
                except asyncio.QueueFull:  # the hole in the numbers shows, and the sockets resync
                    metrics.overflows.labels("bus").inc()
            case {"type": "subscribe", "channel": channel} if channel in self._confirmed:
                self.reconnected.get(channel, _nothing)()
            case {"type": "subscribe", "channel": channel}:
                self._confirmed.add(channel)
            case {"type": "unsubscribe", "channel": channel}:
                self._confirmed.discard(channel)


def _nothing() -> None:
    """For channels whose interruption is nobody's business."""
