"""One socket per conversation, as in Channels' own tutorial; who connects says who they are."""

from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from tests.load.baseline.models import Message


class ChatConsumer(AsyncJsonWebsocketConsumer):
    async def connect(self) -> None:
        self.conversation = self.scope["url_route"]["kwargs"]["conversation"]
        headers = dict(self.scope["headers"])
        self.username = headers[b"authorization"].decode().removeprefix("Bearer ")
        self.group = f"conversation.{self.conversation}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        await self.send_json({"type": "hello"})

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        message = await Message.objects.acreate(
            conversation=self.conversation,
            client_msg_id=content["client_msg_id"],
            sender=self.username,
            content=content["content"],
        )
        told = {
            "conversation_id": self.conversation,
            "seq": message.pk,
            "client_msg_id": content["client_msg_id"],
            "sender": {"username": self.username},
            "content": message.content,
            "sent_at": message.sent_at.isoformat(),
        }
        await self.channel_layer.group_send(self.group, {"type": "message.created", "message": told})
        ack = {"client_msg_id": content["client_msg_id"], "conversation_id": self.conversation, "seq": message.pk}
        await self.send_json({"type": "ack", **ack})

    async def message_created(self, event: Any) -> None:
        await self.send_json({"type": "message.created", "message": event["message"]})
