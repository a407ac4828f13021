"""
What so many people need: from costs that were measured to nodes, stores and bandwidth. `manage.py capacity` prints it.

Arithmetic alone. Each figure is of the busiest second: the average of a day times `peak`, and no core is planned to be
busier than `headroom`. What is not measured but assumed is an option, and has its default here.
"""

from math import ceil
from typing import Annotated

from msgspec import Meta, Struct

from apps.conversations.delivery import LARGE_CONVERSATION
from apps.presence.status import REFRESH_INTERVAL_S

DAY_S = 86_400
SOCKETS_PER_NODE = 10_000  # the default of CHAT_SOCKETS_PER_NODE
LEAST_NODES = 2  # one may die
MOST_NODES = 10_000_000  # more are none
COPIES = 3  # of each message in Cassandra, of each task in RabbitMQ
LEAST_STORES = 3  # Cassandra and RabbitMQ: a majority has to be left when one dies
STORE_CORES = 8  # of a machine for Cassandra
STORE_BYTES = 2e12  # on its disk
DISK_SHARE = 0.5  # of a disk that may be full: compaction needs the rest
LARGEST_MACHINE_CORES = 64  # for PostgreSQL, which has one primary
MOST_STORES = 300  # machines of one Cassandra cluster, before it wants to be several


class Costs(Struct, frozen=True, kw_only=True):
    """What one core of the machine of docs/performance.md takes, in µs of CPU where nothing else is said."""

    # `python -m tests.load.costs`, which prints them by these names.
    message_node: Annotated[float, Meta(description="node, a direct message with its two deliveries")] = 1_500
    message_cassandra: Annotated[float, Meta(description="Cassandra, the same")] = 1_700
    delivery_node: Annotated[float, Meta(description="node, a delivery in a group of 100")] = 48
    frame_node: Annotated[float, Meta(description="both nodes, a frame from one to the other")] = 770
    idle_node: Annotated[float, Meta(description="node, a connection for a second: heartbeats, renewals")] = 17
    idle_postgresql: Annotated[float, Meta(description="PostgreSQL, the same: sessions are looked at again")] = 1.9
    connection_bytes: Annotated[float, Meta(description="bytes of a node's memory, a connection")] = 56_000
    open_node: Annotated[float, Meta(description="node, a client that connects, watches and catches up")] = 7_600
    open_cassandra: Annotated[float, Meta(description="Cassandra, the same")] = 1_000
    open_postgresql: Annotated[float, Meta(description="PostgreSQL, the same")] = 970
    read_node: Annotated[float, Meta(description="node, somebody says how far they have read (REST)")] = 15_000
    read_cassandra: Annotated[float, Meta(description="Cassandra, the same")] = 1_800
    read_postgresql: Annotated[float, Meta(description="PostgreSQL, the same")] = 1_600
    push_worker: Annotated[float, Meta(description="worker, a push from the notice to the console")] = 23_000
    push_postgresql: Annotated[float, Meta(description="PostgreSQL, the same: the ledger")] = 7_300
    push_rabbitmq: Annotated[float, Meta(description="RabbitMQ, the same: two tasks")] = 2_000
    lookup_redis: Annotated[float, Meta(description="Redis, where the two of a pair are")] = 8.9
    lookup_more_redis: Annotated[float, Meta(description="Redis, each further member in the same question")] = 1.9
    publish_redis: Annotated[float, Meta(description="Redis, a message from node to node")] = 1.4
    renewal_redis: Annotated[float, Meta(description="Redis, an entry of a roster put back")] = 6.3
    entry_bytes: Annotated[float, Meta(description="bytes of Redis' memory, an entry of a roster")] = 310
    stored_bytes: Annotated[float, Meta(description="bytes on disk in Cassandra, a message, besides its text")] = 93
    # `python -m tests.simulation.traffic`: a direct message, less the beats and its 105 bytes of text.
    bus_bytes: Annotated[float, Meta(description="bytes on the bus, a frame, besides its text")] = 410
    socket_bytes: Annotated[float, Meta(description="bytes on a socket, a message, besides its text")] = 325
    beat_bytes: Annotated[float, Meta(description="bytes on the bus, a beat")] = 51
    # `python -m tests.load.push` (docs/push.md): FCM, the dearer one
    provider_worker: Annotated[float, Meta(description="worker, to hand a push to FCM")] = 874


class Load(Struct, frozen=True, kw_only=True):
    """What people do."""

    users: int
    active: float = 0.2  # share of them who are connected, in the busiest second
    messages_per_day: float = 40  # that one of them sends, active or not
    message_bytes: int = 111
    group_share: float = 0.2  # of what is said, in groups
    group_size: int = 50
    watched: int = 20  # people whose status a client wants to hear of
    opens_per_day: float = 10  # of the app, of one of them
    reads_per_delivery: float = 0.3  # how often a client says how far it has read
    pushed: float = 0.3  # share of absent members who get a push: have a device, did not mute it, no burst
    keep_days: int = 365
    peak: float = 4  # the busiest second over the average of the day
    headroom: float = 0.5  # share of a core that may be used then


class Plan(Struct, frozen=True, kw_only=True):
    """What that needs. Rates are per second, at the peak."""

    connections: int
    messages: float
    deliveries: float
    pushes: float
    nodes: int  # processes, a core each
    node_memory_bytes: float  # of one of them, for its connections
    frames: float  # between nodes
    beats: float
    redis_commands: float
    redis_cores: float
    redis_memory_bytes: float
    cassandra_cores: float
    cassandra_machines: int
    cassandra_disk_bytes: float  # all copies
    postgresql_cores: float
    rabbitmq_tasks: float
    rabbitmq_cores: float
    workers: int  # processes, a core each
    bus_bits: float
    socket_bits: float


def nodes_told(members: float, nodes: int) -> float:
    """How many other nodes hold some of so many people, who are spread over all nodes by chance."""
    return (nodes - 1) * (1 - float((1 - 1 / nodes) ** members))


class NoNumberOfNodes(Exception):
    """Each further node makes as much work for the others as it takes off them."""


def plan(load: Load, costs: Costs) -> Plan:
    """
    So many nodes that they carry what they tell each other too, which is the more the more of them there are.

    Raises NoNumberOfNodes.
    """
    peak, nodes = _Peak(load, costs), LEAST_NODES
    while (needed := peak.nodes_needed(nodes)) > nodes:
        if needed > MOST_NODES:
            raise NoNumberOfNodes(
                f"No number of nodes carries this: {peak.in_groups:,.0f} messages per second in groups of"
                f" {load.group_size:,} are told to every node, however many there are."
            )
        nodes = needed
    return peak.plan(nodes)


class _Peak:
    """The busiest second, in which everything that a day has comes `peak` times as often."""

    def __init__(self, load: Load, costs: Costs) -> None:
        self._load, self._costs = load, costs
        each_day = load.users * load.peak / DAY_S
        self.connections = ceil(load.users * load.active)
        self.messages = each_day * load.messages_per_day
        self.in_groups = self.messages * load.group_share
        self.direct = self.messages - self.in_groups
        self.others_here = (load.group_size - 1) * load.active  # of a group
        self.heard = self.direct * load.active + self.in_groups * self.others_here  # by others
        self.missed = self.direct * (1 - load.active) + self.in_groups * (load.group_size - 1) * (1 - load.active)
        self.pushes = self.missed * load.pushed
        self.opens = each_day * load.opens_per_day
        self.reads = self.heard * load.reads_per_delivery
        self.roster_entries = self.connections * (1 + load.watched)

    # --- between nodes -----------------------------------------------------------------------------------------------
    def frames(self, nodes: int) -> float:
        is_large = self._load.group_size > LARGE_CONVERSATION
        of_a_group = nodes if is_large else nodes_told(self.others_here, nodes)
        of_a_change = nodes_told(self._load.watched * self._load.active, nodes)  # of who is here, to who watches
        return (
            self.direct * nodes_told(self._load.active, nodes)
            + self.in_groups * of_a_group
            + self._changes * of_a_change
        )

    def beats(self, nodes: int) -> float:
        """Each second one to each node that was told something."""
        return nodes * nodes_told(self.frames(nodes) / nodes, nodes)

    @property
    def _changes(self) -> float:
        return 2 * self.opens

    # --- cores, at the headroom --------------------------------------------------------------------------------------
    def _cores(self, microseconds: float) -> float:
        return microseconds / 1e6 / self._load.headroom

    def nodes_needed(self, nodes: int) -> int:
        costs = self._costs
        further_deliveries = max(0.0, self.in_groups * (self.others_here - 1))
        cores = self._cores(
            self.messages * costs.message_node
            + further_deliveries * costs.delivery_node
            + (self.frames(nodes) + self.beats(nodes) + nodes) * costs.frame_node
            + self.connections * costs.idle_node
            + self.opens * costs.open_node
            + self.reads * costs.read_node
        )
        return ceil(max(cores, self.connections / SOCKETS_PER_NODE))

    def _redis_cores(self, nodes: int) -> float:
        costs = self._costs
        further = 0 if self._load.group_size > LARGE_CONVERSATION else max(0, self._load.group_size - 2)
        return self._cores(
            self.messages * (costs.lookup_redis + costs.publish_redis)
            + self.in_groups * further * costs.lookup_more_redis
            + (self.frames(nodes) + self.beats(nodes) + 3 * nodes) * costs.publish_redis
            + self.roster_entries / REFRESH_INTERVAL_S * costs.renewal_redis
            + self._changes * (2 * costs.lookup_redis + (1 + self._load.watched) * costs.renewal_redis)
        )

    def _cassandra_cores(self) -> float:
        costs = self._costs
        one_copy = (
            self.messages * costs.message_cassandra
            + self.opens * costs.open_cassandra
            + self.reads * costs.read_cassandra
        )
        return self._cores(one_copy * COPIES)

    def _postgresql_cores(self) -> float:
        costs = self._costs
        return self._cores(
            self.opens * costs.open_postgresql
            + self.reads * costs.read_postgresql
            + self.pushes * costs.push_postgresql
            + self.connections * costs.idle_postgresql
        )

    def _disk_bytes(self) -> float:
        stored = self._load.users * self._load.messages_per_day * self._load.keep_days
        return stored * (self._costs.stored_bytes + self._load.message_bytes) * COPIES

    # --- all of it ---------------------------------------------------------------------------------------------------
    def plan(self, nodes: int) -> Plan:
        load, costs = self._load, self._costs
        frames, beats, disk = self.frames(nodes), self.beats(nodes), self._disk_bytes()
        cassandra = self._cassandra_cores()
        heard = self.messages + self.heard  # the sender's own copy too
        return Plan(
            connections=self.connections,
            messages=self.messages,
            deliveries=heard,
            pushes=self.pushes,
            nodes=nodes,
            node_memory_bytes=self.connections / nodes * costs.connection_bytes,
            frames=frames,
            beats=beats,
            redis_commands=2 * self.messages + frames + beats + 3 * nodes + 6 * self.opens,
            redis_cores=self._redis_cores(nodes),
            redis_memory_bytes=self.roster_entries * costs.entry_bytes,
            cassandra_cores=cassandra,
            cassandra_machines=max(LEAST_STORES, ceil(cassandra / STORE_CORES), ceil(disk / STORE_BYTES / DISK_SHARE)),
            cassandra_disk_bytes=disk,
            postgresql_cores=self._postgresql_cores(),
            rabbitmq_tasks=self.messages + self.pushes,
            rabbitmq_cores=self._cores(self.pushes * costs.push_rabbitmq * COPIES),
            workers=ceil(self._cores(self.pushes * (costs.push_worker + costs.provider_worker))) or 1,
            bus_bits=8 * (frames * (costs.bus_bytes + load.message_bytes) + (beats + nodes) * costs.beat_bytes),
            socket_bits=8 * heard * (costs.socket_bytes + load.message_bytes),
        )


def walls(of: Plan) -> list[str]:
    """What this version cannot have more of, however many machines there are; the tightest first."""
    most = {
        "Redis: one, which uses one core, and {:,.1f} are needed": (of.redis_cores, 1),
        "RabbitMQ: one queue, whose leader and copies use about a core each, and {:,.0f} are needed": (
            of.rabbitmq_cores, COPIES,
        ),
        f"PostgreSQL: one primary of {LARGEST_MACHINE_CORES} cores, and {{:,.0f}} are needed": (
            of.postgresql_cores, LARGEST_MACHINE_CORES,
        ),
        f"Cassandra: a cluster of {MOST_STORES} machines, and {{:,}} are needed": (of.cassandra_machines, MOST_STORES),
    }  # fmt: skip
    beyond = {text.format(need): need / has for text, (need, has) in most.items() if need > has}
    return sorted(beyond, key=lambda text: -beyond[text])
