from apps.presence.status import OFFLINE_AFTER_S, OFFLINE_GRACE_S, Announcements, FrameCounters, GapDetector, is_silent


def test_a_socket_is_silent_after_the_offline_time_and_not_before() -> None:
    assert not is_silent(last_heard=100, now=100 + OFFLINE_AFTER_S - 0.1)
    assert is_silent(last_heard=100, now=100 + OFFLINE_AFTER_S)


def test_coming_is_announced_at_once_and_leaving_after_the_grace_time() -> None:
    waiting = Announcements()
    waiting.came("ada", now=10)
    waiting.left("bob", now=10)

    assert waiting.take_due(now=10) == ["ada"]
    assert waiting.take_due(now=10 + OFFLINE_GRACE_S - 0.1) == []
    assert waiting.take_due(now=10 + OFFLINE_GRACE_S) == ["bob"]


def test_a_reload_within_the_grace_time_is_not_announced() -> None:
    waiting = Announcements()
    waiting.left("ada", now=10)
    waiting.came("ada", now=11)

    assert waiting.take_due(now=100) == []


def test_what_could_not_be_told_is_due_again_unless_something_newer_waits() -> None:
    waiting = Announcements()
    waiting.left("bob", now=10)
    waiting.again(["ada", "bob"], now=11)

    assert waiting.take_due(now=11) == ["ada"]
    assert waiting.take_due(now=10 + OFFLINE_GRACE_S) == ["bob"]


def test_nothing_is_announced_twice() -> None:
    waiting = Announcements()
    waiting.came("ada", now=10)
    waiting.came("ada", now=10.1)

    assert waiting.take_due(now=11) == ["ada"]
    assert waiting.take_due(now=12) == []


def test_frames_in_sequence_show_no_gap() -> None:
    sent, received = FrameCounters(), GapDetector()

    assert not any(received.missed("node-1", sent.next("node-2")) for _ in range(5))


def test_a_lost_frame_shows_with_the_next_one_and_only_once() -> None:
    sent, received = FrameCounters(), GapDetector()
    received.missed("node-1", sent.next("node-2"))
    sent.next("node-2")  # lost on the way

    assert received.missed("node-1", sent.next("node-2"))
    assert not received.missed("node-1", sent.next("node-2"))


def test_the_loss_of_the_very_first_frame_shows() -> None:
    sent, received = FrameCounters(), GapDetector()
    sent.next("node-2")

    assert received.missed("node-1", sent.next("node-2"))


def test_a_lost_tail_shows_with_the_closing_beat() -> None:
    sent, received = FrameCounters(), GapDetector()
    received.missed("node-1", sent.next("node-2"))
    sent.next("node-2")  # lost, and nothing more is said

    assert sent.take_unconfirmed() == {"node-2"}
    assert received.missed("node-1", sent.next_beat("node-2"))
    assert sent.take_unconfirmed() == set()


def test_each_origin_and_each_target_counts_by_itself() -> None:
    sent, received = FrameCounters(), GapDetector()
    assert not received.missed("node-1", sent.next("node-3"))
    assert not received.missed("node-2", 1)
    assert sent.next("node-4") == 1


def test_a_node_that_restarts_is_another_origin() -> None:
    received = GapDetector()
    for number in (1, 2, 3):
        received.missed("node.node-1.first-boot", number)

    assert not received.missed("node.node-1.second-boot", 1)


def test_a_beat_that_did_not_go_out_is_still_owed() -> None:
    sent = FrameCounters()
    sent.next("node-2")
    sent.owe(sent.take_unconfirmed())

    assert sent.take_unconfirmed() == {"node-2"}
