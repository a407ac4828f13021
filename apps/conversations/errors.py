"""
Everything that can go wrong for a caller, as one tree.

    ChatError
      BadFrame       the frame or body is malformed; `pointer` names the field
      BadType        unknown `type`
      NotFound       no such user or conversation, or none that the caller may see
      NotAMember     known to the caller, who is not in it any more
      Forbidden      known to the caller, whose role does not allow it
      Blocked        one of the two has blocked the other
      RateLimited    too fast; `retry_after_ms` says when
      Unavailable    a store did not decide in time: nothing is lost, the same request may be sent again
      Internal       a bug of ours; `detail` carries the id under which it is logged

`code` and `retry` go over the wire as they stand here (docs/protocol.md); `status` is the HTTP status of the same
error.
"""

from typing import ClassVar


class ChatError(Exception):
    code: ClassVar[str]
    status: ClassVar[int]
    retry: ClassVar[bool] = False

    def __init__(self, detail: str, *, pointer: str | None = None, retry_after_ms: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer
        self.retry_after_ms = retry_after_ms


class BadFrame(ChatError):
    code, status = "bad_frame", 400


class BadType(ChatError):
    code, status = "bad_type", 400


class NotFound(ChatError):
    code, status = "not_found", 404


class NotAMember(ChatError):
    code, status = "not_a_member", 403


class Forbidden(ChatError):
    code, status = "forbidden", 403


class Blocked(ChatError):
    code, status = "blocked", 403


class RateLimited(ChatError):
    code, status, retry = "rate_limited", 429, True


class Unavailable(ChatError):
    code, status, retry = "unavailable", 503, True


class Internal(ChatError):
    code, status = "internal", 500
