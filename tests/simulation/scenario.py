"""
One run: a few people chat on a few nodes, some things break, everything is mended, and the checker judges.

All of it follows from the seed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from apps.conversations import services
from apps.conversations.errors import ChatError
from tests.consistency.checker import check
from tests.consistency.history import Line, Send
from tests.simulation.client import Client, Device
from tests.simulation.scheduler import START_S
from tests.simulation.services import Service
from tests.simulation.world import Node, World, become

CHAT_S = 5.0  # in which people write and things break
MENDED_BY_S = 9.0
PATIENCE_S = 60.0  # from then on, until everybody has to have everything


@dataclass
class Verdict:
    seed: int
    problems: list[str]
    trace: list[str]  # what happened, if there are problems


def run(seed: int, *, traced: bool = False) -> Verdict:
    scenario = Scenario(seed)
    scenario.play()
    problems = scenario.judge()
    return Verdict(seed, problems, scenario.trace() if problems or traced else [])


class Scenario:
    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        become(self.world)
        self.random = self.world.random
        self.removed: list[tuple[UUID, str]] = []
        self._populate()
        self._plan()

    # --- what there is -----------------------------------------------------------------------------------------------
    def _populate(self) -> None:
        world, random = self.world, self.random
        for number in range(random.choice((2, 2, 3))):
            world.start_node(f"node-{number + 1}")
        everyone = ["ada", "bob", "eve"]
        self.conversations = [world.conversation("tea", everyone)]
        if random.random() < 0.4:
            self.conversations.append(world.conversation("pair", everyone[:2]))
        self.faults = [random.choice(FAULTS) for _ in range(random.choice((0, 1, 1, 2, 2, 3)))]
        self.is_eve_here = random.random() < 0.3 or eve_is_removed in self.faults
        devices = [("ada", "laptop"), ("bob", "laptop")]
        if random.random() < 0.5:
            devices.append(("ada", "phone"))
        if self.is_eve_here:
            devices.append(("eve", "laptop"))
        self.devices = [Device(world.person(owner), name) for owner, name in devices]

    # --- what happens ------------------------------------------------------------------------------------------------
    def _plan(self) -> None:
        random = self.random
        for device in self.devices:
            self._at(random.uniform(0.1, 1.0), self.open_app, device)
        for number in range(random.randint(6, 12)):
            self._at(random.uniform(0.3, CHAT_S), self.say, random.choice(self.devices), f"message {number + 1}")
        for fault in self.faults:
            self._at(random.uniform(0.4, CHAT_S), fault, self)
        self._at(MENDED_BY_S, self._mend)

    def _at(self, seconds: float, callback: Callable[..., None], *args: Any) -> None:
        self.world.scheduler.at(START_S + seconds, None, callback, *args)

    def after(self, least_s: float, most_s: float, callback: Callable[..., None], *args: Any) -> None:
        self.world.scheduler.after(self.random.uniform(least_s, most_s), callback, *args)

    def note(self, what: str) -> None:
        self.world.note("world", what)

    def open_app(self, device: Device) -> None:
        members = self.world.members
        self.world.open_app(device, [each for each in self.conversations if device.owner.id in members[each].present])

    def say(self, device: Device, content: str) -> None:
        client = next((each for each in self.world.clients if each.device is device), None)
        if client is not None and client.timelines:
            client.process.call_soon(client.say, self.random.choice(list(client.timelines)), content)

    def some_node(self) -> Node | None:
        """That others can do without."""
        well = [each for each in self.world.nodes if not each.is_dead and not each.is_frozen]
        return self.random.choice(well) if len(well) > 1 else None

    def some_client(self) -> Client | None:
        return self.random.choice(self.world.clients) if self.world.clients else None

    def _mend(self) -> None:
        """All but what heals by itself: a subscription that is dead stays so."""
        self.note("everything is mended")
        for service in self.world.services:
            service.is_away, service.loses, service.late_s = False, 0.0, 0.0
        for node in list(self.world.nodes):
            node.dies_in = None
            node.thaw()
            starts_again(self, node)

    # --- to the end --------------------------------------------------------------------------------------------------
    def play(self) -> None:
        scheduler = self.world.scheduler
        scheduler.run_until(START_S + MENDED_BY_S)
        scheduler.run_until(START_S + MENDED_BY_S + PATIENCE_S, self._is_settled)

    def _is_settled(self) -> bool:
        if any(client.waiting for client in self.world.clients):
            return False
        heads = {str(each): (self.world.tables.log(each) or [(0,)])[-1][0] for each in self.conversations}
        return all(client.is_up_to_date(heads) for client in self.world.clients)

    def judge(self) -> list[str]:
        self._read_the_history()
        self._read_pushes()
        problems = [str(violation) for violation in check(self.world.lines)] + self.world.errors
        for client in self.world.clients:
            if client.waiting:
                problems.append(f"stuck: {client.waiting} messages still wait in the outbox of {client.view}")
        for conversation_id, username in self.removed:
            problems += self._said_after_removal(conversation_id, username)
        return problems

    def _read_the_history(self) -> None:
        record, world = self.world.recorder, self.world
        names = {str(person.id): person.username for person in world.people.values()}
        for conversation_id in self.conversations:
            conversation, last = str(conversation_id), 0
            for seq, (sender, client_msg_id, kind, _, _) in world.tables.log(conversation_id):
                record.stored("reader", conversation, seq, client_msg_id, names[sender], kind)
                last = seq
            record.read("reader", conversation, last)
            for client in world.clients:
                owner = client.device.owner
                if owner.id in world.members[conversation_id].present:
                    record.view(f"{owner.username}@{client.view}", owner.username, conversation, 1)

    def _read_pushes(self) -> None:
        """To who was never here, a push is due for every message that somebody has said."""
        if self.is_eve_here:
            return
        eve, record, conversation = self.world.person("eve"), self.world.recorder, str(self.conversations[0])
        for line in list(self.world.lines):
            if isinstance(line, Send) and line.type == "ok" and line.conversation == conversation:
                record.absent("world", eve.username, conversation, line.client_msg_id)
        for notice in self.world.handed_over:
            if str(eve.id) in notice["user_ids"]:
                record.push("worker", eve.username, notice["news"]["conversation_id"], notice["news"]["seq"])

    def _said_after_removal(self, conversation_id: UUID, username: str) -> list[str]:
        person = self.world.person(username)
        told_at, problems = 0, []
        for seq, (sender, _, kind, content, _) in self.world.tables.log(conversation_id):
            if kind == "system" and content.endswith(f"removed {person.display_name}"):
                told_at = seq
            elif told_at and sender == str(person.id):
                problems.append(f"outsider: {username} said {seq} after {told_at} had told of the removal")
        return problems

    def trace(self) -> list[str]:
        lines = [(line.time, line.process, described(line)) for line in self.world.lines]
        return [
            f"{when - START_S:8.4f}  {who:<18} {what}"
            for when, who, what in sorted(lines + self.world.notes, key=lambda each: each[0])
        ]


def described(line: Line) -> str:
    operation = type(line).__name__.lower()
    names = ("type", "seq", "client_msg_id") if isinstance(line, Send) else ("seq", "last_seq", "client_msg_id")
    values = [getattr(line, name, None) for name in names]
    shown = [str(value)[:8] for value in values if value is not None]
    return " ".join([operation, *shown, "in", line.conversation[:8]])


# --- what can break --------------------------------------------------------------------------------------------------
def node_dies(scenario: Scenario) -> None:
    """In the middle of whatever it does: after some callbacks from now."""
    node = scenario.some_node()
    if node is not None:
        node.dies_in = scenario.random.randint(1, 150)
        scenario.after(0.5, 4, starts_again, scenario, node)


def starts_again(scenario: Scenario, node: Node) -> None:
    if node.is_dead and node in scenario.world.nodes:
        scenario.note(f"{node.name} starts again")
        scenario.world.start_node(node.name)


def node_freezes(scenario: Scenario) -> None:
    """And comes back, perhaps after its lease has ended: a zombie."""
    node = scenario.some_node()
    if node is not None:
        node.freeze()
        scenario.note(f"{node.name} freezes")
        scenario.after(0.5, 8, thaws, scenario, node)


def thaws(scenario: Scenario, node: Node) -> None:
    scenario.note(f"{node.name} thaws")
    node.thaw()


def redis_is_emptied(scenario: Scenario) -> None:
    scenario.note("Redis is emptied")
    scenario.world.redis.flush()


def redis_goes_back(scenario: Scenario) -> None:
    """A replica takes over that had not heard of the last moments, and everybody has to connect again."""
    most_s = scenario.random.choice((0.9, 2.5))  # a replica in order lags by less than the time between two leases
    scenario.after(0.1, most_s, redis_went_back, scenario, scenario.world.redis.snapshot())
    somebody_gets_in(scenario)


def redis_went_back(scenario: Scenario, snapshot: Any) -> None:
    scenario.note("Redis goes back to an older state")
    scenario.world.redis.restore(snapshot)
    scenario.world.redis.forget_scripts()
    cut_all_subscriptions(scenario)


def somebody_gets_in(scenario: Scenario) -> None:
    """Just then, mostly; and somebody else speaks when all seems to be over."""
    came = some_app_restarts(scenario, 0, 0.3) if scenario.random.random() < 0.8 else None
    others = [each for each in scenario.devices if each is not came]
    scenario.after(3, 4, scenario.say, scenario.random.choice(others), "is it over?")


def cut_all_subscriptions(scenario: Scenario) -> None:
    for node in scenario.world.nodes:
        node.layer.cut(again_in_s=scenario.random.uniform(0.05, 1))


def redis_is_away(scenario: Scenario) -> None:
    scenario.note("Redis is away")
    scenario.world.redis_service.is_away = True
    cut_all_subscriptions(scenario)
    scenario.after(0.2, scenario.random.choice((0.9, 4)), is_back, scenario, scenario.world.redis_service)
    somebody_gets_in(scenario)


def store_is_away(scenario: Scenario) -> None:
    world = scenario.world
    service = scenario.random.choice((world.cassandra_service, world.sql, world.broker))
    scenario.note(f"{service.name} is away")
    service.is_away = True
    scenario.after(0.2, 4, is_back, scenario, service)


def is_back(scenario: Scenario, service: Service) -> None:
    scenario.note(f"{service.name} is back")
    service.is_away = False


def answers_get_lost(scenario: Scenario) -> None:
    service = scenario.random.choice(scenario.world.services)
    service.loses = scenario.random.choice((0.0, 0.1, 0.3))
    service.late_s = scenario.random.choice((0.1, 1.0, 3.0))
    scenario.note(f"{service.name} loses {service.loses:.0%} and is up to {service.late_s} s late")
    scenario.after(0.5, 3, answers_come, scenario, service)
    if scenario.random.random() < 0.5:  # somebody has to get in meanwhile
        network_of_a_client_breaks(scenario)


def answers_come(scenario: Scenario, service: Service) -> None:
    scenario.note(f"{service.name} answers as ever")
    service.loses, service.late_s = 0.0, 0.0


def node_loses_its_subscription(scenario: Scenario) -> None:
    node = scenario.some_node()
    if node is not None:
        scenario.note(f"the subscription of {node.name} is cut")
        node.layer.cut(again_in_s=scenario.random.uniform(0.05, 1.5))


def node_goes_deaf(scenario: Scenario) -> None:
    """Its subscription is dead, and neither side knows: for a moment, or for good."""
    node = scenario.some_node()
    if node is not None and node.layer.subscription is not None:
        scenario.note(f"{node.name} goes deaf")
        node.layer.subscription.is_deaf = True
        if scenario.random.random() < 0.7:
            scenario.after(0.1, 1, hears_again, scenario, node)


def hears_again(scenario: Scenario, node: Node) -> None:
    if node.layer.subscription is not None:
        scenario.note(f"{node.name} hears again")
        node.layer.subscription.is_deaf = False


def app_is_closed(scenario: Scenario) -> None:
    """And somebody else speaks just as it is opened again."""
    opened_in_s = scenario.random.uniform(0.1, 3)
    came = some_app_restarts(scenario, opened_in_s, opened_in_s)
    speaker = scenario.random.choice([each for each in scenario.devices if each is not came])
    for number in range(3):
        scenario.after(opened_in_s, opened_in_s + 0.08, scenario.say, speaker, f"welcome {number + 1}")


def some_app_restarts(scenario: Scenario, least_s: float, most_s: float) -> Device | None:
    """It is opened again with nothing but its outbox."""
    client = scenario.some_client()
    if client is None:
        return None
    scenario.note(f"{client.view} is closed")
    client.process.kill()
    scenario.after(least_s, most_s, scenario.open_app, client.device)
    return client.device


def network_of_a_client_breaks(scenario: Scenario) -> None:
    client = scenario.some_client()
    if client is not None:
        client.process.call_soon(client.lose_network)


def eve_is_removed(scenario: Scenario) -> None:
    """While she goes on talking, perhaps on a node that does not hear of it."""
    node = scenario.some_node()
    if node is None or not node.is_listening or scenario.removed:
        return
    if scenario.random.random() < 0.5:
        node_goes_deaf(scenario)
    scenario.removed.append((scenario.conversations[0], "eve"))
    node.call_soon(lambda: node.create_task(remove_eve(scenario)))
    for number in range(3):
        scenario.after(0, 1, scenario.say, scenario.devices[-1], f"last word {number + 1}")


async def remove_eve(scenario: Scenario) -> None:
    scenario.note("ada removes eve")
    try:
        await services.remove_member(scenario.world.person("ada"), scenario.conversations[0], "eve")
    except ChatError as error:
        scenario.note(f"eve stays: {error}")


FAULTS: list[Callable[[Scenario], None]] = [
    node_dies,
    node_dies,
    node_dies,
    node_freezes,
    redis_is_emptied,
    redis_goes_back,
    redis_is_away,
    store_is_away,
    answers_get_lost,
    answers_get_lost,
    node_loses_its_subscription,
    node_goes_deaf,
    app_is_closed,
    network_of_a_client_breaks,
    eve_is_removed,
]
