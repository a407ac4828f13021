"""What providers have in common on the wire: how much text goes, and how long they ask us to wait."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

MAX_TITLE_CHARS, MAX_BODY_CHARS = 100, 400  # in any script less than the 4,096 bytes that all of them take


def shortened(text: str, most: int) -> str:
    text = text.encode(errors="replace").decode()  # half a surrogate pair is no text that could be sent
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def retry_after(header: str, now: datetime) -> timedelta | None:
    """Of a header Retry-After: seconds, or a date. None for what is neither."""
    text = header.strip()
    if re.fullmatch(r"\d{1,9}", text, re.ASCII):
        return timedelta(seconds=int(text))
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(moment.replace(tzinfo=moment.tzinfo or UTC) - now, timedelta(0))
