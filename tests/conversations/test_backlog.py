"""What waits for a client that does not read is bounded, and what it stands for is not lost."""

from apps.conversations.backlog import MAX_BURST_FRAMES, MAX_BYTES, MAX_FRAMES, Backlog

RESYNC = b"resync"


def drain(backlog: Backlog) -> list[bytes]:
    frames = []
    while (frame := backlog.take()) is not None:
        frames.append(frame)
        backlog.sent()
    return frames


def stuck(frame: bytes = b"on its way") -> Backlog:
    """Of a client whose side of the connection is full."""
    backlog = Backlog(RESYNC)
    backlog.add_event(frame)
    backlog.take()
    return backlog


def test_what_comes_goes_out_in_its_order() -> None:
    backlog = Backlog(RESYNC)
    assert backlog.add_event(b"1") and backlog.add_answer(b"2") and backlog.add_event(b"3")

    assert drain(backlog) == [b"1", b"2", b"3"]
    assert backlog.is_empty


def test_more_than_256_frames_behind_is_one_resync_and_the_answers() -> None:
    backlog = stuck()
    backlog.add_answer(b"ack")
    taken = [backlog.add_event(b"event") for _ in range(MAX_FRAMES + 10)]

    assert taken.count(False) == 1
    assert backlog.is_behind
    backlog.sent()
    assert drain(backlog) == [b"ack", RESYNC]


def test_more_than_a_megabyte_behind_is_one_resync() -> None:
    backlog = stuck()
    taken = [backlog.add_event(b"x" * (MAX_BYTES // 4)) for _ in range(8)]

    assert taken == [True, True, True, False, True, True, True, True]
    backlog.sent()
    assert drain(backlog) == [RESYNC]


def test_events_are_kept_again_once_the_resync_has_gone_out() -> None:
    backlog = stuck()
    while not backlog.is_behind:
        backlog.add_event(b"event")
    backlog.sent()
    assert backlog.take() == RESYNC
    backlog.add_event(b"too early")
    assert backlog.is_behind
    backlog.sent()

    backlog.add_event(b"later")
    assert drain(backlog) == [b"later"]


def test_a_burst_waits_for_its_turn_where_the_client_reads() -> None:
    backlog = Backlog(RESYNC)
    taken = [backlog.add_event(b"event") for _ in range(MAX_BURST_FRAMES + 1)]

    assert taken.index(False) == MAX_BURST_FRAMES


def test_one_frame_may_be_as_large_as_it_is() -> None:
    backlog = Backlog(RESYNC)

    assert backlog.add_event(b"x" * 2 * MAX_BYTES)
    assert len(drain(backlog)) == 1


def test_no_more_answers_are_asked_for_than_are_read() -> None:
    backlog = stuck()
    assert backlog.has_room
    for _ in range(MAX_FRAMES):
        assert backlog.add_answer(b"answer")
    assert not backlog.has_room
    backlog.sent()
    drain(backlog)
    assert backlog.has_room
    backlog.add_answer(b"x" * MAX_BYTES)
    assert not backlog.has_room


def test_answers_that_nobody_reads_are_refused_in_the_end() -> None:
    backlog = stuck()

    assert [backlog.add_answer(b"heartbeat.ack") for _ in range(MAX_BURST_FRAMES + 1)].index(False) == MAX_BURST_FRAMES


def test_hello_comes_before_what_was_delivered_meanwhile() -> None:
    backlog = Backlog(RESYNC)
    backlog.add_event(b"event")
    backlog.add_answer(b"hello", first=True)

    assert drain(backlog) == [b"hello", b"event"]
