"""The benchmark runs: not how fast. And what it computes without a server is right."""

from array import array
from pathlib import Path

import pytest

from tests.load.bench import Plan, measure
from tests.load.compare import ratios
from tests.load.curves import power
from tests.load.pace import next_rate
from tests.load.peers import Channels, Ejabberd
from tests.load.report import Result, new_report, spread, table
from tests.load.tally import Tally, percentile
from tests.load.targets import BASE_DIR, Chat, Target
from tests.load.websocket import cut, frame
from tests.load.workloads import SMALL, climbed


@pytest.mark.system
def test_it_measures_the_server_and_its_histories_hold(tmp_path: Path) -> None:
    plan = Plan(
        targets=[Chat("embedded")], workloads=["group", "history"], nodes=[1], rounds=1, size=SMALL,
        artefacts=tmp_path,
    )  # fmt: skip
    report = new_report(BASE_DIR, "today")
    measure(plan, report)
    assert report.left_out == {}
    assert [result.violations for result in report.results] == [[], []]
    group, history = (result.figures for result in report.results)
    assert group["deliveries/s"] > 0
    assert history["calls/s"] > 0
    assert history["REST calls/s"] > 0
    assert "| deliveries/s |" in table(report)


# --- the directory ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("target", [Chat("embedded"), Chat("full"), Channels(), Ejabberd()], ids=lambda each: each.name)
def test_a_target_that_never_started_deletes_nothing(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").touch()
    monkeypatch.chdir(tmp_path)
    target.stop()
    assert (tmp_path / "kept").exists()
    with pytest.raises(LookupError):
        _ = target.data


# --- the search ------------------------------------------------------------------------------------------------------
def test_the_rate_doubles_until_one_breaks_and_is_then_halved_in_between() -> None:
    assert next_rate(None, None, 200) == 200
    assert next_rate(200, None, 200) == 400
    assert next_rate(200, 400, 200) == pytest.approx(283, abs=1)
    assert next_rate(385, 400, 200) is None


def test_a_first_rate_that_breaks_is_halved_but_not_for_ever() -> None:
    assert next_rate(None, 200, 200) == 100
    assert next_rate(None, 25, 200) is None


def test_a_round_in_which_no_rate_held_has_its_figure_too() -> None:
    assert climbed([]).figures == {"messages/s": 0}
    assert climbed([], "delivery").figures == {"deliveries/s": 0}


# --- the curves ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("exponent", "told"), [(0, 0.0), (1, 1.0), (2, 2.0)])
def test_a_curve_tells_by_what_power_a_cost_grows(exponent: int, told: float) -> None:
    assert power([(size, 7.0 * size**exponent) for size in (10, 100, 1_000)]) == pytest.approx(told)


def test_what_costs_nothing_measurable_does_not_grow() -> None:
    assert power([(10, 0.0), (100, 0.0)]) == 0


# --- the count -------------------------------------------------------------------------------------------------------
def test_time_runs_from_when_a_message_was_due() -> None:
    tally = Tally()
    step = tally.begin()
    client_msg_id = tally.next_id(due=10.0, now=10.5, deliveries=2, answers=1)
    tally.delivered(client_msg_id, 11.0)
    tally.acked(client_msg_id, 12.0)
    assert (list(step.delivery_latencies), list(step.ack_latencies), list(step.lags)) == ([1.0], [2.0], [0.5])
    assert not step.is_complete
    tally.delivered(client_msg_id, 11.0)
    assert step.is_complete


def test_what_comes_after_its_step_counts_no_more() -> None:
    tally = Tally()
    tally.begin()
    late = tally.next_id(due=0, now=0, deliveries=1, answers=1)
    step = tally.begin()
    tally.next_id(due=0, now=0, deliveries=1, answers=1)
    tally.delivered(late, 1)
    tally.acked(late, 1)
    tally.acked("7f9c24e8-3b12-4ac0-8d7e-000000000001", 1)  # somebody else's
    assert (step.deliveries_missing, step.answers_missing) == (1, 1)


def test_a_refusal_is_an_answer_and_a_second_one_is_none() -> None:
    tally = Tally()
    step = tally.begin()
    client_msg_id = tally.next_id(due=0, now=0, deliveries=0, answers=1)
    tally.refused(client_msg_id)
    tally.acked(client_msg_id, 1)
    assert (step.refused, step.answers_missing, list(step.ack_latencies)) == (1, 0, [])


def test_percentiles_are_values_that_occurred() -> None:
    assert percentile(array("d", range(100)), 99) == 99
    assert percentile(array("d", [3.0, 1.0, 2.0]), 50) == 2
    assert percentile(array("d"), 99) == 0


# --- the wire --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_frames_of_any_length_are_cut_where_they_end(size: int) -> None:
    payload = bytes(index % 251 for index in range(size))
    sent = frame(0x1, payload, b"\0\0\0\0")
    unmasked = bytes((sent[0], sent[1] & 0x7F)) + sent[2 : len(sent) - size - 4] + payload
    assert cut(unmasked + unmasked[:-1] if size else unmasked) == ([(1, payload)], len(unmasked))
    assert cut(unmasked[:-1]) == ([], 0)


def test_a_mask_hides_the_text_and_gives_it_back() -> None:
    mask = b"\x12\x34\x56\x78"
    hidden = frame(0x1, b"hello", mask)[6:]
    assert hidden != b"hello"
    assert bytes(byte ^ mask[index % 4] for index, byte in enumerate(hidden)) == b"hello"


# --- the table -------------------------------------------------------------------------------------------------------
def test_a_figure_of_several_rounds_has_its_spread() -> None:
    assert spread([3.0, 1.0, 2.0]) == "2 (1 to 3)"
    assert spread([1234.0]) == "1,234"


def test_figures_with_violations_are_marked() -> None:
    report = new_report(BASE_DIR, "today")
    report.results.append(
        Result(workload="direct", target="embedded", nodes=1, round=1, figures={}, violations=["lost: one"])
    )
    assert "do not count" in table(report)
    assert "embedded, direct: lost: one" in table(report)


def test_a_round_in_which_one_side_lacks_a_figure_is_left_out_of_its_ratio() -> None:
    report = new_report(BASE_DIR, "today")
    for target, number, figures in [
        ("base", 1, {"messages/s": 100.0, "p50 ms": 4.0}),
        ("base", 2, {"messages/s": 100.0, "p50 ms": 4.0}),
        ("now", 1, {"messages/s": 200.0, "p50 ms": 2.0}),
        ("now", 2, {"messages/s": 0.0}),
    ]:
        report.results.append(Result(workload="direct", target=target, nodes=1, round=number, figures=figures))
    assert ratios(report, "base", "now")[2:] == [
        "| direct, 1: messages/s | 100 | 100 (0 to 200) | 1 (0 to 2) |",
        "| direct, 1: p50 ms | 4 | 2 | 0.5 |",
    ]
