"""When a provider is left alone, and when it is asked again."""

import threading
from datetime import timedelta
from itertools import pairwise

import pytest
from prometheus_client import REGISTRY

from apps.push.notification import Push
from apps.push.providers.base import Outcome, Result
from apps.push.providers.breaker import FAILURES, FIRST_PAUSE_S, LONGEST_PAUSE_S, PROBE_S, Breaker, Guarded
from tests.push.pushes import a_push


def opened(now: float = 0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.record(has_failed=True, is_probe=False, now=now)
    return breaker


def test_it_opens_after_failures_in_a_row_and_not_after_as_many_with_one_that_went_well() -> None:
    breaker = Breaker()
    for number in range(3 * FAILURES):
        breaker.record(has_failed=number % FAILURES != 0, is_probe=False, now=0)
    assert not breaker.is_open
    assert breaker.wait(0) == 0
    assert opened().is_open


def test_after_the_pause_one_call_goes_through_and_the_others_wait_for_what_comes_of_it() -> None:
    breaker = opened(now=100)
    assert breaker.wait(100) == FIRST_PAUSE_S
    assert breaker.wait(100 + FIRST_PAUSE_S - 1) == 1
    assert breaker.wait(100 + FIRST_PAUSE_S) == 0
    assert [breaker.wait(100 + FIRST_PAUSE_S) for _ in range(3)] == [PROBE_S] * 3


def test_a_probe_that_goes_well_closes_it() -> None:
    breaker = opened()
    assert breaker.wait(FIRST_PAUSE_S) == 0
    breaker.record(has_failed=False, is_probe=True, now=FIRST_PAUSE_S)
    assert not breaker.is_open
    assert [breaker.wait(FIRST_PAUSE_S) for _ in range(3)] == [0, 0, 0]


def test_ten_minutes_away_cost_a_handful_of_probes_and_a_minute_at_most_after_it_is_back() -> None:
    breaker, probes, now = opened(), [], 0.0
    while now < 600:
        if wait := breaker.wait(now):
            now += wait
        else:
            probes.append(now)
            breaker.record(has_failed=True, is_probe=True, now=now)
    assert len(probes) < 15
    assert max(later - earlier for earlier, later in pairwise(probes)) == LONGEST_PAUSE_S
    assert breaker.wait(600) <= LONGEST_PAUSE_S


def test_calls_that_were_under_way_when_it_opened_neither_prolong_the_pause_nor_pass_for_the_probe() -> None:
    breaker = opened(now=0)
    breaker.record(has_failed=True, is_probe=False, now=FIRST_PAUSE_S - 1)
    assert breaker.wait(FIRST_PAUSE_S) == 0
    breaker.record(has_failed=True, is_probe=False, now=FIRST_PAUSE_S)
    assert breaker.wait(FIRST_PAUSE_S) == PROBE_S, "the probe is still under way"


def test_a_call_that_was_under_way_and_went_well_closes_it() -> None:
    breaker = opened()
    breaker.record(has_failed=False, is_probe=False, now=1)
    assert breaker.wait(1) == 0


# --- around a provider -----------------------------------------------------------------------------------------------
class Scripted:
    name = "scripted"

    def __init__(self, result: Result) -> None:
        self.result = result
        self.calls = 0

    def send(self, token: str, push: Push) -> Result:
        self.calls += 1
        return self.result


def metric() -> float | None:
    return REGISTRY.get_sample_value("chat_push_breaker_open", {"provider": "scripted"})


@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.MISCONFIGURED])
def test_an_open_breaker_answers_as_the_provider_did_and_says_how_long_to_wait(outcome: Outcome) -> None:
    provider = Scripted(Result(outcome, error="503 Shutdown"))
    guarded = Guarded(provider)
    results = [guarded.send("t", a_push()) for _ in range(FAILURES + 5)]
    assert provider.calls == FAILURES
    assert {result.outcome for result in results} == {outcome}
    assert "503 Shutdown" in results[-1].error
    assert results[-1].retry_after is not None
    assert timedelta(0) < results[-1].retry_after <= timedelta(seconds=FIRST_PAUSE_S)
    assert metric() == 1


def test_a_provider_that_is_back_is_used_again() -> None:
    now = [1_000.0]
    provider = Scripted(Result(Outcome.RETRY, error="503"))
    guarded = Guarded(provider, lambda: now[0])
    for _ in range(FAILURES):
        guarded.send("t", a_push())
    provider.result = Result(Outcome.ACCEPTED, provider_id="1")
    assert guarded.send("t", a_push()).outcome is Outcome.RETRY
    now[0] += FIRST_PAUSE_S
    assert guarded.send("t", a_push()) == provider.result
    assert guarded.send("t", a_push()) == provider.result
    assert metric() == 0


@pytest.mark.parametrize("outcome", [Outcome.UNREGISTERED, Outcome.REJECTED, Outcome.ACCEPTED])
def test_what_is_said_of_one_push_or_token_says_that_the_provider_is_well(outcome: Outcome) -> None:
    provider = Scripted(Result(outcome))
    guarded = Guarded(provider)
    for _ in range(2 * FAILURES):
        assert guarded.send("t", a_push()).outcome is outcome
    assert provider.calls == 2 * FAILURES


def test_a_probe_that_breaks_off_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    provider = Scripted(Result(Outcome.RETRY))
    guarded = Guarded(provider, lambda: now[0])
    for _ in range(FAILURES):
        guarded.send("t", a_push())
    now[0] += FIRST_PAUSE_S
    with monkeypatch.context() as broken:
        broken.setattr(provider, "send", raising)
        with pytest.raises(MemoryError):
            guarded.send("t", a_push())
    now[0] += LONGEST_PAUSE_S
    calls = provider.calls
    guarded.send("t", a_push())
    assert provider.calls == calls + 1


def raising(*_: object) -> Result:
    raise MemoryError


def test_calls_are_not_made_to_wait_for_each_other() -> None:
    """Both have to be under way at once, or neither comes to its end."""
    together = threading.Barrier(2, timeout=10)

    class Meeting(Scripted):
        def send(self, token: str, push: Push) -> Result:
            together.wait()
            return self.result

    guarded = Guarded(Meeting(Result(Outcome.ACCEPTED)))
    other = threading.Thread(target=guarded.send, args=("t", a_push()))
    other.start()
    assert guarded.send("t", a_push()).outcome is Outcome.ACCEPTED
    other.join(10)
