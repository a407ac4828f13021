"""
How many nodes, stores and workers so many people need, from costs that were measured; docs/capacity.md explains it.
Without --users: for 10 thousand, 1 million and 100 million.
"""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
from django.core.management.base import BaseCommand, CommandError

from apps.conversations import capacity
from apps.conversations.capacity import Costs, Load, NoNumberOfNodes, Plan

USUAL = (10_000, 1_000_000, 100_000_000)
BEGIN, END = "<!-- manage.py capacity -->\n", "<!-- end -->\n"


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--users", type=_whole(1, 10**10), metavar="N", help="who have an account")
        for name, (read, about) in OPTIONS.items():
            default = getattr(Load(users=1), name)
            option = f"--{name.replace('_', '-')}"
            parser.add_argument(option, type=read, default=default, metavar="N", help=f"{about} ({default:g})")
        parser.add_argument("--json", action="store_true", help="a line of JSON for each number of users")
        parser.add_argument("--into", type=Path, metavar="FILE", help="renew the tables in docs/capacity.md")

    def handle(self, *args: Any, **options: Any) -> None:
        users = [options["users"]] if options["users"] else USUAL
        loads = [Load(users=each, **{name: options[name] for name in OPTIONS}) for each in users]
        try:
            if options["into"]:
                _put_into(options["into"], loads)
            else:
                self.stdout.write(as_json(loads) if options["json"] else needs(loads))
        except NoNumberOfNodes as reason:
            raise CommandError(str(reason)) from reason


# --- what it is told -------------------------------------------------------------------------------------------------
def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise ArgumentTypeError(f"{text!r} is no whole number from {least} to {most:,}")
        return int(text)

    return read


def _number(least: float, most: float, *, above: bool = False) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not least <= number <= most or (above and number == least):
            raise ArgumentTypeError(f"{text!r} is no number {'above' if above else 'from'} {least:g} to {most:g}")
        return number

    return read


OPTIONS: dict[str, tuple[Callable[[str], float], str]] = {
    "active": (_number(0, 1), "share of them who are connected in the busiest second"),
    "messages_per_day": (_number(0, 100_000), "that one of them sends, active or not"),
    "message_bytes": (_whole(1, 32_000), "of what one says"),
    "group_share": (_number(0, 1), "of the messages, that are said in groups"),
    "group_size": (_whole(2, 1_000_000), "members of one"),
    "watched": (_whole(0, 1_000), "people whose status a client wants to hear of"),
    "opens_per_day": (_number(0, 10_000), "how often one of them opens the app"),
    "reads_per_delivery": (_number(0, 1), "how often a client says how far it has read"),
    "pushed": (_number(0, 1), "share of absent members who get a push"),
    "keep_days": (_whole(1, 36_500), "how long messages are kept"),
    "peak": (_number(1, 100), "the busiest second over the average of a day"),
    "headroom": (_number(0, 1, above=True), "share of a core that may be used then"),
}


# --- what it says ----------------------------------------------------------------------------------------------------
def _amount(value: float) -> str:
    """Two digits are as many as a plan has."""
    if value >= 100:
        return f"{float(f'{value:.2g}'):,.0f}"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _of(value: float, units: Sequence[str]) -> str:
    *smaller, largest = units
    for unit in smaller:
        if value < 1_000:
            return f"{_amount(value)} {unit}"
        value /= 1_000
    return f"{_amount(value)} {largest}"


def _bytes(value: float) -> str:
    return _of(value, ("B", "KB", "MB", "GB", "TB", "PB"))


def _bits(value: float) -> str:
    return _of(value, ("bit/s", "Kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"))


ROWS: dict[str, Callable[[Plan], str]] = {
    "**at the peak, per second**": lambda plan: "",
    "connections, open at once": lambda plan: _amount(plan.connections),
    "messages": lambda plan: _amount(plan.messages),
    "deliveries": lambda plan: _amount(plan.deliveries),
    "pushes": lambda plan: _amount(plan.pushes),
    "**chat nodes**, processes of one core": lambda plan: f"**{_amount(plan.nodes)}**",
    "memory of one, for its connections": lambda plan: _bytes(plan.node_memory_bytes),
    "frames between nodes, and beats": lambda plan: f"{_amount(plan.frames)}, {_amount(plan.beats)}",
    "**Redis**, cores": lambda plan: f"**{_amount(plan.redis_cores)}**",
    "commands": lambda plan: _amount(plan.redis_commands),
    "memory for presence": lambda plan: _bytes(plan.redis_memory_bytes),
    "**Cassandra**, machines of 8 cores and 2 TB": lambda plan: f"**{_amount(plan.cassandra_machines)}**",
    "cores": lambda plan: _amount(plan.cassandra_cores),
    "disk, of three copies": lambda plan: _bytes(plan.cassandra_disk_bytes),
    "**PostgreSQL**, cores": lambda plan: f"**{_amount(plan.postgresql_cores)}**",
    "**RabbitMQ**, cores of three machines or more": lambda plan: f"**{_amount(plan.rabbitmq_cores)}**",
    "tasks": lambda plan: _amount(plan.rabbitmq_tasks),
    "**push workers**, processes of one core": lambda plan: f"**{_amount(plan.workers)}**",
    "**network**, between nodes and Redis, each way": lambda plan: _bits(plan.bus_bits),
    "to the clients, before TLS": lambda plan: _bits(plan.socket_bits),
}


def as_json(loads: Sequence[Load]) -> str:
    """A line for each load."""
    plans = [capacity.plan(load, Costs()) for load in loads]
    shown = [
        {"load": load, "plan": plan, "walls": capacity.walls(plan)} for load, plan in zip(loads, plans, strict=True)
    ]
    return "\n".join(msgspec.json.encode(each).decode() for each in shown)


def needs(loads: Sequence[Load]) -> str:
    """As Markdown: a column for each load, and what stands in its way."""
    plans = [capacity.plan(load, Costs()) for load in loads]
    lines = [f"| users | {' | '.join(f'{load.users:,}' for load in loads)} |", f"|---|{'---|' * len(loads)}"]
    lines += [f"| {name} | {' | '.join(show(plan) for plan in plans)} |" for name, show in ROWS.items()]
    for load, plan in zip(loads, plans, strict=True):
        found = capacity.walls(plan) or ["nothing"]
        lines += ["", f"What stands in the way of {load.users:,} users:", "", *(f"- {wall}" for wall in found)]
    return "\n".join(lines)


def figures() -> str:
    """As Markdown: the costs, and what is assumed."""
    lines = ["| measured | µs of CPU, or bytes |", "|---|---|"]
    for name, hint in get_type_hints(Costs, include_extras=True).items():
        (meta,) = hint.__metadata__
        lines.append(f"| {meta.description} | {getattr(Costs(), name):,g} |")
    lines += ["", "| assumed | option | |", "|---|---|---|"]
    for name, (_, about) in OPTIONS.items():
        lines.append(f"| {about} | `--{name.replace('_', '-')}` | {getattr(Load(users=1), name):g} |")
    return "\n".join(lines)


def tables(loads: Sequence[Load]) -> str:
    return f"{BEGIN}\n{needs(loads)}\n\n{figures()}\n\n{END}"


def _put_into(file: Path, loads: Sequence[Load]) -> None:
    try:
        text = file.read_text()
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise CommandError(f"{file} has no place for the tables: {BEGIN.strip()} … {END.strip()}")
    file.write_text(f"{before}{tables(loads)}{after}")
