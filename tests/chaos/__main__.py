"""
Break every part while people chat, at random, for some minutes: python -m tests.chaos --minutes 30

Without --minutes each row is played once. Many of the scenes break two parts at once. What was found is in
report.md and junit.xml of the directory --out, with the record of each scene that failed, which
`python -m tests.consistency FILE` reads. The same --seed plays the same scenes. Exit code 1: a violation.
"""

import asyncio
import random
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click

from tests.chaos import clients, faults, report
from tests.chaos.rows import Row
from tests.chaos.scene import Outcome, Scene, all_at_once
from tests.chaos.world import StackName, World, running

MIXED = 1 / 2
MIXABLE = {"nodes", "workers", "redis", "history", "database", "broker"}  # the others need the rest to work


class Run:
    def __init__(self, seed: str, out: Path, rows: list[Row]) -> None:
        self.seed, self.out, self.rows = seed, out, rows
        self.outcomes: list[Outcome] = []

    async def on(self, stack: StackName, minutes: float) -> None:
        """Each row before any is repeated, and each once at least if there are no minutes to fill."""
        this = asyncio.current_task()
        assert this is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)  # so that nothing stays behind
        end = time.monotonic() + minutes * 60
        rng = random.Random(f"{self.seed}/{stack}")
        with tempfile.TemporaryDirectory(prefix="chat-chaos-", ignore_cleanup_errors=True) as home:
            async with running(Path(home), stack, self.seed) as world:
                for number, scene in enumerate(self._scenes(rng, stack, endless=minutes > 0)):
                    await self._play(world, scene, f"{self.seed}.{number}")
                    if minutes and time.monotonic() > end:
                        break

    def _scenes(self, rng: random.Random, stack: StackName, *, endless: bool) -> Iterator[list[Row]]:
        rows = [row for row in self.rows if stack in row.stacks]
        if not endless:
            yield from ([row] for row in rows)
            return
        while True:
            for row in rng.sample(rows, len(rows)):
                others = [other for other in rows if other.part in MIXABLE - {row.part}]
                mixed = row.part in MIXABLE and others and rng.random() < MIXED
                yield [row, rng.choice(others)] if mixed else [row]

    async def _play(self, world: World, rows: list[Row], seed: str) -> None:
        scene = Scene(world, " + ".join(row.name for row in rows), seed, short=False)
        scene.alone = len(rows) == 1

        async def breaks(scene: Scene) -> None:
            await all_at_once(*(row.breaks(scene) for row in rows))

        outcome = await scene.play(breaks)
        self.outcomes.append(outcome)
        print(outcome, flush=True)
        if outcome.violations:
            scene.write(self.out / f"scene-{len(self.outcomes)}-{world.stack}.jsonl")
        report.write(self.out, self.outcomes, self.seed)


@click.command(help=__doc__)
@click.option("--minutes", type=click.FloatRange(min=0), default=0.0)
@click.option("--seed", default="")
@click.option("--stack", type=click.Choice(["embedded", "full", "both"]), default="both")
@click.option("--row", "names", multiple=True, help="only rows whose name contains this")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("artefacts/chaos"))
def main(minutes: float, seed: str, stack: str, names: tuple[str, ...], out: Path) -> None:
    seed = seed or secrets.token_hex(4)
    rows = [row for row in faults.ROWS + clients.ROWS if not names or any(name in row.name for name in names)]
    if not rows:
        raise click.BadParameter("no row has such a name", param_hint="--row")
    out.mkdir(parents=True, exist_ok=True)
    run = Run(seed, out, rows)
    stacks: list[StackName] = [each for each in ("embedded", "full") if stack in (each, "both")]
    print(f"SEED={seed}", flush=True)
    for each in stacks:
        if any(each in row.stacks for row in rows):
            with suppress(KeyboardInterrupt, asyncio.CancelledError):
                asyncio.run(run.on(each, minutes / len(stacks)))
    print(report.markdown(run.outcomes, seed))
    sys.exit(1 if not run.outcomes or any(outcome.violations for outcome in run.outcomes) else 0)


if __name__ == "__main__":
    main()
