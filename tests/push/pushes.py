"""A push to send."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from apps.push.notification import Push

CONVERSATION = UUID("11111111-1111-4111-8111-111111111111")


def a_push(**other: Any) -> Push:
    values = {
        "push_id": UUID("22222222-2222-4222-8222-222222222222"),
        "kind": "message",
        "conversation_id": CONVERSATION,
        "seq": 7,
        "title": "Bob",
        "body": "Hello, Ada!",
        "path": f"/c/{CONVERSATION}/",
        "badge": 3,
        "count": 2,
        "expires_at": datetime.now(UTC) + timedelta(hours=1),
    }
    return Push(**(values | other))
