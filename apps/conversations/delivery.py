"""
From a stored message to everyone in the conversation: the sockets of those who are here, a push for those who are not.

Everything here may run again for the same message: receivers drop a seq they have, and a push collapses on the device.
"""

from collections.abc import Collection
from typing import Any
from uuid import UUID

import msgspec

from apps import failpoints
from apps.accounts.people import Person
from apps.conversations import history, memberships
from apps.conversations.errors import ChatError, Unavailable
from apps.conversations.memberships import Members
from apps.conversations.messages import Kind, Message
from apps.conversations.protocol import MessageCreated, MessageOut, encode, message_out
from apps.presence import node
from apps.presence.node import BusAway, Node
from apps.push import outbox
from apps.push.outbox import HandoverFailed
from apps.push.policy import News, Notice, mentions_in

LARGE_CONVERSATION = 1_000  # members; past it every live node gets the frame and finds its own users
NOTIFY_TASK = "apps.conversations.tasks.notify_absent"


async def deliver(message: Message, members: Members) -> None:
    """
    Tell every member of a stored message.

    When it returns, each node with a member on it was told, or will find out that it missed something; and for each
    member who is nowhere a push is confirmed by the broker or stands in the outbox. Raises Unavailable otherwise.
    """
    if message.kind is Kind.TEXT:
        node.current().registry.recent.note(message.conversation_id)
    out = message_out(message, await _sender(message, members))
    frame = encode(MessageCreated(out))
    if len(members.present) > LARGE_CONVERSATION:
        await everywhere(members.conversation_id, frame)
        absent = None
    else:
        absent = await to_users(members.present, frame)
        absent.discard(message.sender_id)
    failpoints.reached("told")
    if message.kind is Kind.TEXT and (absent is None or absent):
        await _hand_over(out, absent)


async def to_users(user_ids: Collection[UUID], frame: bytes) -> set[UUID]:
    """Push a frame to these users' sockets everywhere; returns who is nowhere. Raises Unavailable."""
    try:
        return await node.current().deliver(user_ids, frame)
    except BusAway as error:
        raise Unavailable("Not everyone could be told yet; try again.", retry_after_ms=1_000) from error


async def everywhere(conversation_id: UUID, frame: bytes) -> None:
    message = {"type": "conversation.frame", "conversation": conversation_id.bytes, "frame": frame}
    try:
        await node.current().deliver_everywhere(message)
    except BusAway as error:
        raise Unavailable("Not everyone could be told yet; try again.", retry_after_ms=1_000) from error


async def _sender(message: Message, members: Members) -> Person:
    if message.sender_id in members.present:
        return members.present[message.sender_id].person
    return (await memberships.senders([message.sender_id]))[message.sender_id]


async def _hand_over(out: MessageOut, absent: Collection[UUID] | None) -> None:
    """Ask for a push to those who are absent (None: the task finds out who is). Raises Unavailable."""
    news = News(out.conversation_id, out.seq, out.sender.id, out.client_msg_id, mentions_in(out.content))
    try:
        await outbox.hand_over(NOTIFY_TASK, Notice(news, None if absent is None else list(absent)))
    except HandoverFailed as error:
        raise Unavailable("A notification could not be queued; try again.", retry_after_ms=2_000) from error


# --- what other nodes ask of this one --------------------------------------------------------------------------------
def attach(this: Node) -> None:
    """Let a node know what its conversations want of the bus."""

    async def members_changed(message: dict[str, Any]) -> None:
        memberships.expire(UUID(bytes=message["conversation"]))

    async def conversation_frame(message: dict[str, Any]) -> None:
        members = await memberships.known(UUID(bytes=message["conversation"]))
        this.hub.send(members.present.keys() & this.hub.user_ids(), message["frame"])

    async def unreached(frame: bytes, user_ids: set[UUID]) -> None:
        """They are away, or closed their last socket here while the frame was on its way: absent after all."""
        created = _as_message(frame)
        if created is None or created.kind != Kind.TEXT:
            return
        try:
            await _hand_over(created, user_ids - {created.sender.id})
        except ChatError:
            this.resync("push")

    this.exchange.on("members.changed", members_changed)
    this.exchange.on("conversation.frame", conversation_frame)
    this.on_unreached(unreached)
    history.attach(this.exchange, this.registry)
    this.on_resync(memberships.forget_all)


def _as_message(frame: bytes) -> MessageOut | None:
    try:
        return msgspec.json.decode(frame, type=MessageCreated).message
    except msgspec.ValidationError:
        return None


async def members_changed(conversation_id: UUID) -> None:
    """Let every node look up again who is in a conversation. A node that misses this looks within 30 s anyway."""
    memberships.expire(conversation_id)
    await node.current().exchange.broadcast({"type": "members.changed", "conversation": conversation_id.bytes})
