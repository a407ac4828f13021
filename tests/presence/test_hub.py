from uuid import UUID, uuid4

from apps.accounts.identity import Identity
from apps.accounts.people import Person
from apps.presence.hub import Hub


class FakeSocket:
    def __init__(self, user_id: UUID) -> None:
        self.identity = Identity(Person(user_id, "ada", "Ada"), f"t-{uuid4().hex}", is_staff=False)
        self.last_heard = 0.0
        self.frames: list[bytes] = []

    def push(self, frame: bytes) -> bool:
        self.frames.append(frame)
        return True

    async def close(self, code: int) -> None: ...


def test_a_frame_goes_to_every_socket_of_a_user_and_to_nobody_else() -> None:
    hub, ada, bob = Hub(), uuid4(), uuid4()
    phone, laptop, other = FakeSocket(ada), FakeSocket(ada), FakeSocket(bob)
    for socket in (phone, laptop, other):
        hub.add(socket)

    assert hub.send([ada, uuid4()], b"frame") == {ada}
    assert (phone.frames, laptop.frames, other.frames) == ([b"frame"], [b"frame"], [])


def test_only_the_last_socket_of_a_user_counts() -> None:
    hub, ada = Hub(), uuid4()
    phone, laptop = FakeSocket(ada), FakeSocket(ada)

    hub.add(phone)
    hub.add(laptop)

    assert [hub.remove(phone), hub.remove(laptop)] == [False, True]
    assert hub.users() == []


def test_watching_replaces_the_earlier_set_and_says_what_the_node_newly_watches() -> None:
    hub = Hub()
    phone, laptop = FakeSocket(uuid4()), FakeSocket(uuid4())

    assert hub.watch(phone, frozenset({"ada", "bob"})) == ({"ada", "bob"}, set())
    assert hub.watch(laptop, frozenset({"bob", "eve"})) == ({"eve"}, set())
    assert hub.watch(phone, frozenset({"eve"})) == (set(), {"ada"})
    assert hub.watch(laptop, frozenset()) == (set(), {"bob"})
    assert sorted(hub.watched()) == ["eve"]


def test_only_watchers_hear_of_a_status() -> None:
    hub = Hub()
    phone, laptop = FakeSocket(uuid4()), FakeSocket(uuid4())
    hub.watch(phone, frozenset({"ada"}))
    hub.watch(laptop, frozenset({"bob"}))

    hub.tell_watchers("ada", b"online")

    assert (phone.frames, laptop.frames) == ([b"online"], [])
