"""
Places in the path of a message at which a test can have this process die, as if by `kill -9`.

`CHAT_FAILPOINT=stored` in the environment names one; `stored:3` means the third time it is reached. Without that
variable, `reached` compares a word with nothing and returns.
"""

import os
import signal

_place, _, _times = os.environ.get("CHAT_FAILPOINT", "").partition(":")
_left = int(_times or 1)


def reached(place: str) -> None:
    global _left
    if place != _place:
        return
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
