"""
The scenarios that hold client_rules.py and static/chat/*.js to each other: steps, and what each of them answers.

    python -m tests.simulation.golden

writes tests/scenarios/*.json anew, from a seed and with the answers of the Python side. tests/js/scenarios.test.js says
whether the browser's modules agree.
"""

import asyncio
import json
from pathlib import Path
from random import Random
from typing import Any

from tests.simulation.client_rules import Entry, Outbox, Outcome, Timeline, delay_s

SCENARIOS = Path(__file__).parent.parent / "scenarios"
NEVER = "never"  # no answer: the tab dies
Step = dict[str, Any]


# --- timeline: [{cursor, steps: [{seq | synced, at, applied, cursor, due}]}], times in milliseconds ------------------
def play_timeline(scenario: Step) -> Step:
    timeline = Timeline(scenario["cursor"])
    return scenario | {"steps": [_timeline_step(timeline, step) for step in scenario["steps"]]}


def _timeline_step(timeline: Timeline, step: Step) -> Step:
    now = step["at"] / 1_000
    due = timeline.gap_due(now)
    if "seq" in step:
        applied = timeline.receive({"seq": step["seq"]}, now)
    else:
        synced = step["synced"] | {"messages": [{"seq": seq} for seq in step["synced"]["messages"]]}
        applied = timeline.receive_synced(synced, now)
    return step | {"due": due, "applied": [message["seq"] for message in applied], "cursor": timeline.cursor}


def random_timeline(random: Random) -> Step:
    cursor, at = random.choice((0, 0, 5)), 1_000
    head, steps = cursor, []
    for _ in range(random.randint(4, 14)):
        at += random.choice((0, 10, 150, 299, 300, 301, 1_000))
        if random.random() < 0.7:
            head += random.randint(0, 3)
            steps.append({"seq": max(1, head - random.choice((0, 0, 1, 2, 4))), "at": at})
        else:
            start = random.randint(max(1, cursor - 2), head + 2)
            end = random.randint(start - 1, head + 2)
            last_seq = max(end, head)
            synced = {"messages": list(range(start, end + 1)), "last_seq": last_seq, "more": end < last_seq}
            steps.append({"synced": synced, "at": at})
    return {"cursor": cursor, "steps": steps}


# --- outbox: [{steps: [{add | drain | retry | remove | reopen, sent, entries}]}] -------------------------------------
async def play_outbox(scenario: Step) -> Step:
    storage: dict[str, Entry] = {}
    ids = iter(range(1, 1_000))
    clock = {"at": 0.0}

    def opened() -> Outbox:
        return Outbox(storage, lambda: f"m{next(ids)}", lambda: clock["at"])

    outbox, steps = opened(), []
    for step in scenario["steps"]:
        clock["at"] = step["at"]
        sent: dict[str, list[Any]] = {}
        if "add" in step:
            outbox.add(step["add"], "hello")
        elif "drain" in step:
            await _drain(outbox, step["drain"], sent)
        elif "retry" in step:
            outbox.retry(step["retry"])
        elif "remove" in step:
            outbox.remove(step["remove"])
        else:
            outbox = opened()
        entries = [[entry.client_msg_id, entry.after_seq, entry.state] for entry in outbox.entries()]
        steps.append(step | {"sent": sent, "entries": entries})
    return scenario | {"steps": steps}


async def _drain(outbox: Outbox, drain: Step, sent: dict[str, list[Any]]) -> None:
    """Until it ends, or nothing moves any more as an answer never comes."""
    answers = {client_msg_id: list(kinds) for client_msg_id, kinds in drain["answers"].items()}
    silence: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    stuck = asyncio.Event()

    async def send(entry: Entry) -> Outcome:
        sent.setdefault(entry.conversation_id, []).append([entry.client_msg_id, entry.after_seq])
        kinds = answers.get(entry.client_msg_id)
        kind = kinds.pop(0) if kinds else "lost"
        if kind == NEVER:
            stuck.set()
            return await silence
        return Outcome(kind, seq=1)

    draining = asyncio.create_task(outbox.drain(send, lambda conversation: drain["held"][conversation]))
    waiting = asyncio.create_task(stuck.wait())
    await asyncio.wait([draining, waiting], return_when=asyncio.FIRST_COMPLETED)
    for _ in range(20):  # the other conversation goes on
        await asyncio.sleep(0)
    for task in (draining, waiting):
        task.cancel()
    await asyncio.gather(draining, waiting, return_exceptions=True)


def random_outbox(random: Random) -> Step:
    at, added, steps = 0, 0, []
    for _ in range(random.randint(4, 10)):
        at += random.choice((0, 0, 5))
        match random.choice(("add", "add", "add", "drain", "drain", "retry", "remove", "reopen")):
            case "add":
                added += 1
                steps.append({"at": at, "add": random.choice(("tea", "pair"))})
            case "drain":
                kinds = ("ack", "ack", "later", "refused", "lost", NEVER)
                answers = {f"m{each}": random.choices(kinds, k=3) for each in range(1, added + 1)}
                steps.append({"at": at, "drain": {"held": {"tea": at, "pair": added}, "answers": answers}})
                if any(NEVER in kinds for kinds in answers.values()):
                    steps.append({"at": at, "reopen": True})
            case "reopen":
                steps.append({"at": at, "reopen": True})
            case other:
                steps.append({"at": at, other: f"m{random.randint(1, max(1, added))}"})
    return {"steps": steps}


# --- backoff: [{attempt, random, at_least, delay}], in milliseconds --------------------------------------------------
def play_backoff(scenario: Step) -> Step:
    delay = delay_s(scenario["attempt"], lambda: float(scenario["random"]), scenario["at_least"] / 1_000)
    return scenario | {"delay": round(delay * 1_000)}


def random_backoff(random: Random) -> Step:
    return {"attempt": random.randint(0, 9), "random": random.randint(0, 99) / 100, "at_least": random.choice((0, 700))}


async def main() -> None:
    random = Random(1)
    games = {
        "timeline": [play_timeline(random_timeline(random)) for _ in range(40)],
        "outbox": [await play_outbox(random_outbox(random)) for _ in range(40)],
        "backoff": [play_backoff(random_backoff(random)) for _ in range(20)],
    }
    for name, scenarios in games.items():
        lines = ",\n".join(json.dumps(scenario) for scenario in scenarios)
        (SCENARIOS / f"{name}.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    asyncio.run(main())
