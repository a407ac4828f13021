"""The Python client plays what the browser's modules play (tests/js/scenarios.test.js), with the same answers."""

import json
from typing import Any

import pytest

from tests.simulation.golden import SCENARIOS, play_backoff, play_outbox, play_timeline


def scenarios(name: str) -> list[Any]:
    found: list[Any] = json.loads((SCENARIOS / f"{name}.json").read_text())
    assert found
    return found


@pytest.mark.parametrize(("name", "play"), [("timeline", play_timeline), ("backoff", play_backoff)])
def test_the_rules_answer_as_the_browsers_do(name: str, play: Any) -> None:
    for scenario in scenarios(name):
        assert play(scenario) == scenario


async def test_the_outbox_sends_and_keeps_what_the_browsers_does() -> None:
    for scenario in scenarios("outbox"):
        assert await play_outbox(scenario) == scenario
