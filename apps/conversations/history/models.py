"""
The tables of the log in Cassandra, for `manage.py sync_cassandra`. The queries are in cassandra.py.

Compaction is unified, Cassandra's own advice for new tables since 5.0.
"""

from typing import ClassVar

from cassandra.cqlengine import columns
from cassandra.cqlengine.models import Model

_UNIFIED = {"compaction": {"class": "org.apache.cassandra.db.compaction.UnifiedCompactionStrategy"}}


class MessageLog(Model):  # type: ignore[misc]
    __table_name__ = "message_log"
    __options__: ClassVar = _UNIFIED

    conversation_id = columns.UUID(partition_key=True)
    bucket = columns.Integer(partition_key=True)  # (seq - 1) // bucket size
    lane = columns.TinyInt(primary_key=True)  # 0: a message under its number; 1: which number a message_id has
    seq = columns.BigInt(primary_key=True, clustering_order="DESC")  # 0 in lane 1
    message_id = columns.UUID(primary_key=True)  # uuid5(conversation, sender, client_msg_id)
    last_seq = columns.BigInt(static=True)  # the number given last in this bucket
    members_version = columns.BigInt(static=True)  # of the members by whose word it was given
    first_seq = columns.BigInt()  # lane 1 only
    sender_id = columns.UUID()
    client_msg_id = columns.UUID()
    kind = columns.Text()
    content = columns.Text()
    sent_at = columns.DateTime()


class ConversationHead(Model):  # type: ignore[misc]
    """Advisory: where to begin looking for the newest bucket. May lag behind, never ahead."""

    __table_name__ = "conversation_heads"
    __options__: ClassVar = _UNIFIED

    conversation_id = columns.UUID(partition_key=True)
    bucket = columns.Integer()
