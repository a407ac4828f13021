"""A store that is asked for more than it can do still does what it can, and nobody waits long for a no."""

from collections import deque

from apps.conversations.history.pressure import FIRST, LATE_S, LOWEST, SILENT_S, SOON_S, Pressure

TICK_S = 0.001


class Store:
    """Answers `per_s` requests in their order; what happens when it is asked `asked_per_s` times."""

    def __init__(self, per_s: float, pressure: Pressure) -> None:
        self.per_s, self.pressure = per_s, pressure
        self.now = 100.0
        self.waits: list[float] = []
        self.refused = 0
        self._waiting: deque[float] = deque()
        self._owed = self._asked = 0.0

    def run(self, seconds: float, asked_per_s: float) -> None:
        self.waits, self.refused = [], 0
        for _ in range(int(seconds / TICK_S)):
            self.now += TICK_S
            self._asked += asked_per_s * TICK_S
            while self._asked >= 1:
                self._asked -= 1
                self._ask()
            self._owed = min(self._owed + self.per_s * TICK_S, max(1.0, self.per_s * TICK_S))
            while self._owed >= 1 and self._waiting:
                self._owed -= 1
                self._answer()

    def _ask(self) -> None:
        if self.pressure.lets_in(self.now):
            self.pressure.begin(self.now)
            self._waiting.append(self.now)
        else:
            self.refused += 1

    def _answer(self) -> None:
        begun = self._waiting.popleft()
        self.pressure.end(begun, self.now, answered=True)
        self.waits.append(self.now - begun)


def test_at_three_times_what_a_store_can_do_it_does_all_it_can_and_keeps_nobody_waiting() -> None:
    for per_s in (200, 1_000, 5_000):
        store = Store(per_s, Pressure())
        store.run(12, 3 * per_s)  # to learn how fast it is
        store.run(10, 3 * per_s)

        assert len(store.waits) > 9.5 * per_s
        assert sorted(store.waits)[int(len(store.waits) * 0.99)] < 1.0, per_s


def test_a_store_that_keeps_up_refuses_nobody() -> None:
    store = Store(1_000, Pressure())
    store.run(20, 900)

    assert store.refused == 0


def test_a_store_that_gets_faster_is_asked_for_more() -> None:
    store = Store(200, Pressure())
    store.run(12, 1_000)
    store.per_s = 5_000
    store.run(5, 4_000)
    store.run(5, 4_000)

    assert store.refused == 0


def test_a_store_that_stopped_answering_is_asked_by_a_few() -> None:
    store = Store(0, Pressure())
    store.run(SILENT_S + 0.1, FIRST // 4)
    store.run(1, FIRST // 4)

    assert store.refused > FIRST // 5
    assert store.pressure.under_way <= FIRST


def test_when_it_answers_again_others_may_ask_again() -> None:
    store = Store(0, Pressure())
    store.run(3, 500)
    store.per_s = 1_000
    store.run(3, 500)
    store.run(3, 500)

    assert store.refused == 0


def test_readers_are_put_off_before_writers() -> None:
    pressure = Pressure()
    put_off = None
    for number in range(FIRST):
        assert pressure.lets_in(0)
        pressure.begin(0)
        if put_off is None and pressure.is_high(0):
            put_off = number

    assert put_off is not None and LOWEST < put_off < FIRST * 0.6
    assert not pressure.lets_in(0)


def test_one_late_answer_of_a_crowd_shrinks_the_bound_once() -> None:
    pressure = Pressure()
    for _ in range(100):
        pressure.begin(0)
    for number in range(100):
        pressure.end(0, LATE_S * 2 + number / 1_000, answered=True)

    assert pressure.bound == FIRST // 2


def test_a_quick_refusal_of_the_store_is_no_sign_of_a_queue() -> None:
    pressure = Pressure()
    for _ in range(FIRST):
        pressure.begin(0)
    for _ in range(FIRST):
        pressure.end(0, SOON_S / 2, answered=False)

    assert pressure.bound == FIRST
