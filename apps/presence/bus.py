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
from redis.exceptions import RedisError

from apps.accounts.aio import per_loop
from apps.presence.pipe import Pipe

logger = logging.getLogger(__name__)

NODES_GROUP = "nodes"  # every node listens to it; accounts announces ended sessions there


class ChannelLayer(RedisPubSubChannelLayer):
    """CONFIG: url."""

    def __init__(self, url: str) -> None:
        # redis-py's default socket_timeout of 5 s would end every subscription that is quiet for so long
        super().__init__(hosts=[{"address": url, "socket_timeout": None}], prefix="chat")
        self.pipe = per_loop(lambda: Pipe(url))

    async def send(self, channel: str, message: dict[str, Any]) -> int:
        """Returns the number of subscribers. Raises RedisError when Redis did not take it."""
        return await self.publish(channel, message)

    def publish(self, channel: str, message: dict[str, Any]) -> "asyncio.Future[int]":
        """The same, queued at once: messages go out in the order of the calls."""
        return self.pipe().enqueue("PUBLISH", channel, self.serialize(message))

    async def subscribe(self, channel: str, group: str) -> None:
        """Let `receive(channel)` have what is sent to the channel and to the group. Raises RedisError; may be repeated."""
        layer = self._get_layer()
        layer.channels.setdefault(channel, asyncio.Queue())
        await layer._get_shard(channel).subscribe(channel)
        await layer.group_add(group, channel)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever a subscription of this loop was cut and is back."""
        shard = self._get_layer()._shards[0]
        shard.reconnected = callback

    def _get_layer(self) -> RedisPubSubLoopLayer:
        layer = super()._get_layer()
        if not isinstance(layer._shards[0], _Shard):
            layer._shards = [_Shard(shard.host, layer) for shard in layer._shards]
        return layer


class _Shard(RedisSingleShardConnection):
    def __init__(self, host: dict[str, Any], channel_layer: RedisPubSubLoopLayer) -> None:
        super().__init__(host, channel_layer)
        self.reconnected: Callable[[], None] = lambda: None
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
                self._receive_message(message)
            case {"type": "subscribe", "channel": channel} if channel in self._confirmed:
                self.reconnected()
            case {"type": "subscribe", "channel": channel}:
                self._confirmed.add(channel)
            case {"type": "unsubscribe", "channel": channel}:
                self._confirmed.discard(channel)
