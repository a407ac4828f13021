"""How people and times look on a page. static/chat/views/look.js does the same in the browser."""

from datetime import datetime
from uuid import UUID

from django import template
from django.conf import settings

from apps.accounts.browsers import name_of_browser
from apps.conversations.protocol import ConversationOut, MemberOut
from apps.push import vapid, wishes

register = template.Library()

HUES = 12


register.filter("browser_name", name_of_browser)
register.simple_tag(vapid.public_key, name="vapid_key")
register.simple_tag(wishes.wishes_of)
register.simple_tag(lambda: settings.PUSH_CONTENT, name="content_allowed")
register.simple_tag(lambda: sorted(wishes.time_zones()), name="time_zones")


@register.filter
def hue(identity: UUID | str) -> int:
    """A colour of its own for each person and group: a number that chat.css knows."""
    return int(str(identity)[:2], 16) % HUES


@register.filter
def initials(name: str) -> str:
    words = [word for word in name.split() if word[0].isalnum()] or name.split()
    return "".join(word[0] for word in words[:2]).upper()


@register.filter
def moment(sent_at: str) -> datetime:
    """A time of the wire contract, for Django's own filters."""
    return datetime.fromisoformat(sent_at)


@register.filter
def other(conversation: ConversationOut | None, me: UUID) -> MemberOut | None:
    """Whom a direct conversation is with. (There is none in the <template> that the browser fills in.)"""
    if conversation is None or conversation.kind != "direct":
        return None
    return next((member for member in conversation.members if member.id != me), None)


@register.filter
def name(conversation: ConversationOut | None, me: UUID) -> str:
    """What a conversation is called for one of its members."""
    if conversation is None:
        return ""
    if conversation.kind == "group":
        return conversation.title
    with_whom = other(conversation, me)
    return with_whom.display_name if with_whom is not None else "Nobody"
