"""
How much may be asked of a store, or of a whole node, at once, learnt from how soon it answers.

"Not now" at once is better than too late. It is a bound on the requests under way, which moves as TCP's window does:
each answer that comes soon lets one more in, and a late one shrinks it to what can be answered in time. So however slow
the store is, what is let in waits about half a second. A store that has stopped answering is asked by a few, until it
answers again.
"""

SOON_S = 0.25
LATE_S = 0.5
SILENT_S = 1.0
LOWEST = 64
FIRST = 1_000
HIGHEST = 20_000


class Pressure:
    def __init__(self) -> None:
        self.bound = FIRST
        self.under_way = 0
        self._answered_at = 0.0
        self._shrunk_at = 0.0

    def lets_in(self, now: float) -> bool:
        if self.under_way < LOWEST:
            return True
        return self.under_way < self.bound and not self._is_silent(now)

    def is_high(self, now: float) -> bool:
        """Whether what can be done later should be."""
        return self.under_way >= LOWEST and (self.under_way > self.bound // 2 or self._is_silent(now))

    def begin(self, now: float) -> None:
        if not self.under_way:
            self._answered_at = now
        self.under_way += 1

    def end(self, begun: float, now: float, *, answered: bool) -> None:
        self.under_way -= 1
        took = now - begun
        if answered:
            self._answered_at = now
        if took > LATE_S:
            if begun >= self._shrunk_at:  # it knew the present bound
                self.bound = max(LOWEST, int(self.bound * max(0.5, min(0.9, LATE_S / took))))
                self._shrunk_at = now
        elif answered and took < SOON_S and self.under_way * 2 > self.bound:
            self.bound = min(HIGHEST, self.bound + 1)

    def _is_silent(self, now: float) -> bool:
        return now - self._answered_at > SILENT_S
