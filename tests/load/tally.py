"""
What became of the messages of a run.

Each has a number, which its client_msg_id carries. A message's time runs from when it was due, not from when it went
out: a driver or a server that falls behind shows as latency, and not as fewer messages.
"""

import secrets
from array import array
from dataclasses import dataclass, field


def percentile(values: "array[float]", percent: float) -> float:
    """By nearest rank; 0 of nothing."""
    if not values:
        return 0.0
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))]


@dataclass
class Step:
    """The messages from number `first` on. Latencies in seconds."""

    first: int
    due: list[float] = field(default_factory=list)
    deliveries: list[int] = field(default_factory=list)  # that each shall make
    deliveries_missing: int = 0
    answers_missing: int = 0
    refused: int = 0
    lags: "array[float]" = field(default_factory=lambda: array("d"))
    ack_latencies: "array[float]" = field(default_factory=lambda: array("d"))
    delivery_latencies: "array[float]" = field(default_factory=lambda: array("d"))

    @property
    def messages_missing(self) -> float:
        """As many as the answers and deliveries that have not come stand for."""
        per_message = sum(self.deliveries[-1:]) or 1
        return max(self.answers_missing, self.deliveries_missing / per_message)

    @property
    def is_complete(self) -> bool:
        return self.answers_missing <= 0 and self.deliveries_missing <= 0


class Tally:
    """Told by all clients of a run; of messages from an earlier step it takes no notice any more."""

    def __init__(self) -> None:
        self.id_prefix = f"{secrets.token_hex(4)}-0000-4000-8000-"
        self.sent = 0
        self.step = Step(0)
        self.ended: set[int] = set()  # by their numbers: messages of this step that were acked or refused

    def begin(self) -> Step:
        self.step = Step(self.sent)
        self.ended.clear()
        return self.step

    def next_id(self, due: float, now: float, *, deliveries: int, answers: int) -> str:
        """The client_msg_id of one more message, which so many sockets shall get."""
        step = self.step
        step.due.append(due)
        step.deliveries.append(deliveries)
        step.lags.append(now - due)
        step.deliveries_missing += deliveries
        step.answers_missing += answers
        self.sent += 1
        return f"{self.id_prefix}{self.sent - 1:012x}"

    def acked(self, client_msg_id: str, now: float) -> None:
        index = self._take(client_msg_id)
        if index is not None:
            self.step.ack_latencies.append(now - self.step.due[index])

    def refused(self, client_msg_id: str) -> None:
        index = self._take(client_msg_id)
        if index is not None:
            self.step.refused += 1
            self.step.deliveries_missing -= self.step.deliveries[index]

    def delivered(self, client_msg_id: str, now: float) -> None:
        index = self._index(client_msg_id)
        if index is not None:
            self.step.deliveries_missing -= 1
            self.step.delivery_latencies.append(now - self.step.due[index])

    def _take(self, client_msg_id: str) -> int | None:
        index = self._index(client_msg_id)
        if index is None or index in self.ended:
            return None
        self.ended.add(index)
        self.step.answers_missing -= 1
        return index

    def _index(self, client_msg_id: str) -> int | None:
        if not client_msg_id.startswith(self.id_prefix):
            return None
        index = int(client_msg_id[24:], 16) - self.step.first
        return index if index >= 0 else None
