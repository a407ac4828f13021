"""Each violation is found where a hand-written history has it, and nowhere else; then in generated ones."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.consistency.checker import check
from tests.consistency.history import Apply, Line, Push, Recorder, Rubbish, Send, Stored, decode, read_file, recording

HISTORIES = Path(__file__).parent / "histories"

FOUND = {
    "duplicate.in_a_view": [("duplicate", (2, 4))],
    "duplicate.in_the_acks": [("duplicate", (4, 6))],
    "duplicate.in_the_history": [("duplicate", (3, 4))],
    "duplicate.under_two_numbers_in_a_view": [("duplicate", (2, 4))],
    "forgotten.between_readings": [("forgotten", (3, 5))],
    "forgotten.by_the_history": [("forgotten", (4, 5, 7))],
    "gap.below_the_head": [("gap", (4,))],
    "gap.in_a_view": [("gap", (7, 8))],
    "gap.in_a_view_of_whom_nothing_is_said": [("gap", (7, 8))],
    "gap.in_the_history": [("gap", (6,))],
    "lost.from_a_view": [("lost", (5, 9))],
    "lost.from_one_of_two_views": [("lost", (5, 12))],
    "lost.from_the_history": [("lost", (4, 6))],
    "overwritten.an_ack_by_another": [("forgotten", (2, 5, 7)), ("overwritten", (2, 4))],
    "phantom.of_another_sender": [("phantom", (1, 3))],
    "phantom.refused": [("phantom", (2, 3))],
    "phantom.sent_by_nobody": [("phantom", (4,))],
    "reordered.after_the_ack": [("reordered", (2, 6)), ("reordered", (4, 5))],
    "reordered.between_members": [("reordered", (2, 8)), ("reordered", (4, 7))],
    "reordered.in_a_reading": [("gap", (8,)), ("reordered", (9,))],
    "reordered.in_a_view": [("reordered", (5, 6))],
    "reordered.in_an_outbox": [("reordered", (1, 2, 3, 4))],
    "unpushed": [("unpushed", (6, 7))],
}


@pytest.mark.parametrize("history", sorted(file.stem for file in HISTORIES.glob("*.jsonl")))
def test_a_written_history_has_what_its_name_says_and_no_more(history: str) -> None:
    violations = check(read_file(HISTORIES / f"{history}.jsonl"))

    assert [(each.name, each.lines) for each in violations] == FOUND.get(history, [])
    assert (history in FOUND) != history.startswith("clean.")


class Run:
    """A chat that does everything right, at random: answers get lost, processes give up, people come later or not."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.lines: list[Line] = []
        self._recorder = Recorder(self.lines.append, lambda: float(len(self.lines)))
        self._log: list[tuple[str, str]] = []
        self._cursors = {f"{member}@{view}": 0 for member in ("ada", "bob", "eve") for view in ("phone", "laptop")}

    def happen(self, steps: int) -> None:
        for step in range(steps):
            if self.random.random() < 0.5:
                self._say(f"m{step}", self.random.choice(["ada", "bob"]))
            else:
                self._catch_up(self.random.choice(sorted(self._cursors)), self.random.randint(1, 5))
        for view in self._cursors:
            self._catch_up(view, len(self._log))
        for seq, (client_msg_id, sender) in enumerate(self._log, 1):
            self._recorder.stored("reader", "tea", seq, client_msg_id, sender)
        self._recorder.read("reader", "tea", len(self._log))
        for view in self._cursors:
            self._recorder.view(view, view.partition("@")[0], "tea", 1)

    def _say(self, client_msg_id: str, sender: str) -> None:
        message = (client_msg_id, sender)
        for _ in range(3):
            self._recorder.invoke(sender, "tea", *message)
            if self.random.random() < 0.1 and message not in self._log:
                return self._recorder.fail(sender, "tea", *message)
            if self.random.random() < 0.8 and message not in self._log:
                self._log.append(message)
            if message in self._log and self.random.random() < 0.8:
                self._recorder.absent("server", "zoe", "tea", client_msg_id)
                self._recorder.push("fcm", "zoe", "tea", len(self._log))
                return self._recorder.ok(sender, "tea", *message, self._log.index(message) + 1)
            self._recorder.info(sender, "tea", *message)
            if self.random.random() < 0.5:
                return None
        return None

    def _catch_up(self, view: str, count: int) -> None:
        for client_msg_id, sender in self._log[self._cursors[view] :][:count]:
            self._cursors[view] += 1
            self._recorder.apply(*view.split("@"), "tea", self._cursors[view], client_msg_id, sender)


runs = st.builds(Random, st.integers(0, 2**32))


@given(runs)
def test_a_run_in_which_all_went_well_has_no_violation(random: Random) -> None:
    run = Run(random)
    run.happen(60)

    assert check(run.lines) == []


def _without(run: Run, unwanted: Callable[[Line], bool]) -> list[Line]:
    lines = [line for line in run.lines if not unwanted(line)]
    return lines if len(lines) < len(run.lines) else []


def _one(run: Run, kind: type[Line], wanted: Callable[[Line], bool] = lambda line: True) -> Line | None:
    fitting = [line for line in run.lines if isinstance(line, kind) and wanted(line)]
    return run.random.choice(fitting) if fitting else None


def _changed(run: Run, line: Line | None, **fields: object) -> list[Line]:
    return [msgspec.structs.replace(each, **fields) if each is line else each for each in run.lines] if line else []


def _lose_a_message(run: Run) -> list[Line]:
    acked = _one(run, Send, lambda line: line.type == "ok")
    return acked and _without(
        run, lambda line: isinstance(line, Apply | Stored) and line.client_msg_id == acked.client_msg_id
    )


def _forget_a_message(run: Run) -> list[Line]:
    forgotten = _one(run, Stored)
    return forgotten and _without(run, lambda line: line is forgotten)


def _swap_two_messages_of_a_view(run: Run) -> list[Line]:
    one = _one(run, Apply)
    other = one and _one(run, Apply, lambda line: line.process == one.process and line.seq == one.seq + 1)
    swapped = {id(one): other, id(other): one}
    return other and [
        msgspec.structs.replace(line, client_msg_id=swapped[id(line)].client_msg_id, sender=swapped[id(line)].sender)
        if id(line) in swapped
        else line
        for line in run.lines
    ]


def _store_a_message_twice(run: Run) -> list[Line]:
    stored = _one(run, Stored)
    end = max((line.seq for line in run.lines if isinstance(line, Stored)), default=0)
    at = stored and run.lines.index(next(line for line in run.lines if isinstance(line, Stored) and line.seq == end))
    return stored and [*run.lines[: at + 1], msgspec.structs.replace(stored, seq=end + 1), *run.lines[at + 1 :]]


def _give_a_number_again(run: Run) -> list[Line]:
    acked = _one(run, Send, lambda line: line.type == "ok" and line.seq > 1)
    return acked and [
        line
        for line in _changed(run, acked, seq=acked.seq - 1)
        if not (isinstance(line, Apply | Stored) and line.client_msg_id == acked.client_msg_id)
        and not (isinstance(line, Send) and line.client_msg_id == acked.client_msg_id and line.time > acked.time)
    ]


def _pass_over_a_message(run: Run) -> list[Line]:
    end = max((line.seq for line in run.lines if isinstance(line, Stored)), default=0)
    passed = _one(run, Apply, lambda line: 1 < line.seq < end)
    return passed and _without(run, lambda line: line is passed)


def _invent_a_message(run: Run) -> list[Line]:
    taken = _one(run, Apply)
    return _changed(run, taken, client_msg_id="invented")


def _push_nothing(run: Run) -> list[Line]:
    return _without(run, lambda line: isinstance(line, Push))


MUTATIONS = {
    _lose_a_message: "lost",
    _forget_a_message: "forgotten",
    _swap_two_messages_of_a_view: "reordered",
    _store_a_message_twice: "duplicate",
    _give_a_number_again: "overwritten",
    _pass_over_a_message: "gap",
    _invent_a_message: "phantom",
    _push_nothing: "unpushed",
}


@pytest.mark.parametrize("mutation", MUTATIONS)
@given(random=runs)
def test_what_is_done_to_a_good_run_is_found(mutation: Callable[[Run], list[Line]], random: Random) -> None:
    run = Run(random)
    run.happen(60)
    lines = mutation(run)

    assert not lines or MUTATIONS[mutation] in {violation.name for violation in check(lines)}


def test_what_is_recorded_is_read_again(tmp_path: Path) -> None:
    run = Run(Random(1))
    run.happen(20)
    with recording(tmp_path / "run.jsonl") as recorder:
        for line in run.lines:
            recorder._sink(line)

    assert list(read_file(tmp_path / "run.jsonl")) == run.lines


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"\n", "empty"),
        (b'{"op":"send"', "truncated"),
        (b"\xff\n", "malformed"),
        (b'{"op":"shout"}\n', "shout"),
        (b'{"op":"read","time":1,"process":"p","conversation":"c"}\n', "last_seq"),
        (b'{"op":"read","time":1,"process":"p","conversation":"c","last_seq":"x"}\n', "last_seq"),
        (b'{"op":"read","time":1,"process":"p","conversation":"c","last_seq":1,"sec":1}\n', "sec"),
        (
            b'{"op":"send","type":"ok","time":1,"process":"p","conversation":"c","client_msg_id":"m","sender":"ada"}\n',
            "seq",
        ),
    ],
)
def test_a_line_that_is_no_operation_is_named_with_its_number(text: bytes, reason: str) -> None:
    good = (HISTORIES / "clean.chat.jsonl").read_bytes().splitlines(keepends=True)[:2]

    with pytest.raises(Rubbish, match=rf"^line 3: .*{reason}"):
        list(decode([*good, text]))


@pytest.mark.parametrize(
    ("content", "exit_code", "said"),
    [
        ((HISTORIES / "clean.chat.jsonl").read_text(), 0, "nothing found"),
        ((HISTORIES / "lost.from_a_view.jsonl").read_text(), 1, "lost: bob never got 2 (conversation tea, lines 5, 9)"),
        ("rubbish\n", 2, "line 1: "),
    ],
)
def test_the_command_says_what_it_found(tmp_path: Path, content: str, exit_code: int, said: str) -> None:
    (tmp_path / "run.jsonl").write_text(content)
    command = [sys.executable, "-m", "tests.consistency", tmp_path / "run.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == exit_code
    assert said in done.stdout + done.stderr
