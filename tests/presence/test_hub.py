import time
from uuid import UUID, uuid4

from apps.accounts.identity import Identity
from apps.accounts.people import Person
from apps.presence.hub import Hub

AWAY_AFTER_S = 120


class FakeSocket:
    def __init__(self, user_id: UUID) -> None:
        self.identity = Identity(Person(user_id, "ada", "Ada"), f"t-{uuid4().hex}", is_staff=False)
        self.last_heard = 0.0
        self.last_active = time.monotonic()
        self.frames: list[bytes] = []

    def push(self, frame: bytes) -> bool:
        self.frames.append(frame)
        return True

    async def close(self, code: int) -> None: ...


def test_a_frame_goes_to_every_socket_of_a_user_and_to_nobody_else() -> None:
    hub, ada, bob = Hub(AWAY_AFTER_S), uuid4(), uuid4()
    phone, laptop, other = FakeSocket(ada), FakeSocket(ada), FakeSocket(bob)
    for socket in (phone, laptop, other):
        hub.add(socket)

    assert hub.send([ada, uuid4()], b"frame") == {ada}
    assert (phone.frames, laptop.frames, other.frames) == ([b"frame"], [b"frame"], [])


def test_who_is_away_gets_the_frame_and_does_not_count_as_reached() -> None:
    hub, ada, bob = Hub(AWAY_AFTER_S), uuid4(), uuid4()
    phone, laptop, other = FakeSocket(ada), FakeSocket(ada), FakeSocket(bob)
    for socket in (phone, laptop, other):
        hub.add(socket)
    phone.last_active -= AWAY_AFTER_S

    assert hub.send([ada, bob], b"first") == {ada, bob}
    assert hub.away(time.monotonic()) == set()

    laptop.last_active -= AWAY_AFTER_S
    assert hub.send([ada, bob], b"second") == {bob}
    assert hub.away(time.monotonic()) == {str(ada)}
    assert phone.frames == laptop.frames == [b"first", b"second"]


def test_only_the_last_socket_of_a_user_counts() -> None:
    hub, ada = Hub(AWAY_AFTER_S), uuid4()
    phone, laptop = FakeSocket(ada), FakeSocket(ada)

    hub.add(phone)
    hub.add(laptop)

    assert [hub.remove(phone), hub.remove(laptop)] == [False, True]
    assert hub.users() == []


def test_watching_replaces_the_earlier_set_and_says_what_the_node_newly_watches() -> None:
    hub = Hub(AWAY_AFTER_S)
    phone, laptop = FakeSocket(uuid4()), FakeSocket(uuid4())

    assert hub.watch(phone, frozenset({"ada", "bob"})) == ({"ada", "bob"}, set())
    assert hub.watch(laptop, frozenset({"bob", "eve"})) == ({"eve"}, set())
    assert hub.watch(phone, frozenset({"eve"})) == (set(), {"ada"})
    assert hub.watch(laptop, frozenset()) == (set(), {"bob"})
    assert sorted(hub.watched()) == ["eve"]


def test_only_watchers_hear_of_a_status() -> None:
    hub = Hub(AWAY_AFTER_S)
    phone, laptop = FakeSocket(uuid4()), FakeSocket(uuid4())
    hub.watch(phone, frozenset({"ada"}))
    hub.watch(laptop, frozenset({"bob"}))

    hub.tell_watchers("ada", b"online")

    assert (phone.frames, laptop.frames) == ([b"online"], [])
