"""
What waits to go out on one socket, and how far behind its client may be (docs/protocol.md, section 4).

Events can be had again from the history: of a client that is too far behind they are forgotten, one `resync` stands for
all of them, and none is kept until that has gone out. Answers cannot be had again, so they stay; what asks for more of
them waits until there is room.
"""

from collections import deque

MAX_FRAMES = 256
MAX_BYTES = 1_000_000
# Of a client that does read, and is only waiting for its turn in a burst.
MAX_BURST_FRAMES = 1_024


class Backlog:
    def __init__(self, resync: bytes) -> None:
        self._resync = resync
        self._waiting: deque[tuple[bytes, bool]] = deque()  # and whether it is an answer
        self._bytes = 0
        self._on_its_way: bytes | None = None
        self.is_behind = False

    def add_event(self, frame: bytes) -> bool:
        """Returns False when the client fell too far behind with this one."""
        if self.is_behind:
            return True
        if self._fits(frame):
            self._add(frame, is_answer=False)
            return True
        answers = [waiting for waiting in self._waiting if waiting[1]]
        self._bytes -= sum(len(waiting) for waiting, is_answer in self._waiting if not is_answer)
        self._waiting = deque(answers)
        self._add(self._resync, is_answer=False)
        self.is_behind = True
        return False

    def add_answer(self, frame: bytes, *, first: bool = False) -> bool:
        """Returns False when so many wait that the client cannot be reading them."""
        if len(self._waiting) >= MAX_BURST_FRAMES and not first:
            return False
        self._add(frame, is_answer=True, first=first)
        return True

    def take(self) -> bytes | None:
        """The next frame to send; `sent` says that it has gone out."""
        if not self._waiting:
            return None
        self._on_its_way, _ = self._waiting.popleft()
        return self._on_its_way

    def sent(self) -> None:
        if self._on_its_way is not None:
            self._bytes -= len(self._on_its_way)
        if self._on_its_way is self._resync:
            self.is_behind = False
        self._on_its_way = None

    @property
    def has_room(self) -> bool:
        """Whether a hundred more answers, or a large one, may come."""
        return len(self._waiting) <= MAX_FRAMES // 2 and self._bytes <= MAX_BYTES // 2

    @property
    def is_empty(self) -> bool:
        return not self._waiting and self._on_its_way is None

    def _fits(self, frame: bytes) -> bool:
        if not self._waiting:
            return True  # one frame may be as large as it is
        # While a frame is on its way, the client's side of the connection is full.
        most = MAX_BURST_FRAMES if self._on_its_way is None else MAX_FRAMES
        return len(self._waiting) < most and self._bytes + len(frame) <= MAX_BYTES

    def _add(self, frame: bytes, *, is_answer: bool, first: bool = False) -> None:
        if first:
            self._waiting.appendleft((frame, is_answer))
        else:
            self._waiting.append((frame, is_answer))
        self._bytes += len(frame)
