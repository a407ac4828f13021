"""
Runs seeds of the simulation: python -m tests.simulation --seeds 2000

A seed that fails is told with its trace. Exit code 0: all is well; 1: a seed failed, or a safeguard was taken out and
no seed noticed.
"""

import os
import sys

if os.environ.get("PYTHONHASHSEED") != "0":  # the order in which sets of strings are walked is part of a run
    command = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
    os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": "0"})  # noqa: S606 the same command again

import gc
import warnings
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from itertools import chain
from multiprocessing import get_context

import click
import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatproject.settings.test")
django.setup()

from tests.simulation import world  # noqa: E402
from tests.simulation.safeguards import SAFEGUARDS, Safeguard  # noqa: E402
from tests.simulation.scenario import Verdict, run  # noqa: E402

CHUNK = 50  # seeds that one process is given at a time


def prepare() -> None:
    """Garbage is collected between runs only: what a killed process leaves must not come to life inside another."""
    world.install()
    sys.unraisablehook = lambda unraisable: None  # coroutines of killed processes end nowhere
    warnings.simplefilter("ignore", RuntimeWarning)  # and some have not begun
    gc.collect()
    gc.freeze()
    gc.disable()


def first_failure(seeds: Iterable[int]) -> Verdict | None:
    for played, seed in enumerate(seeds, 1):
        verdict = run(seed)
        if played % 25 == 0:
            gc.collect()
        if verdict.problems:
            return verdict
    return None


def noticed(name: str, seeds: int) -> Verdict | None:
    safeguard = _named(name)
    with safeguard.taken_out():
        return first_failure(chain([safeguard.hint], range(seeds)))


def _named(name: str) -> Safeguard:
    return next(each for each in SAFEGUARDS if each.name == name)


def show(verdict: Verdict) -> None:
    click.echo("\n".join(verdict.trace))
    click.echo(f"\nseed {verdict.seed}: {'failed' if verdict.problems else 'nothing found'}")
    for problem in verdict.problems:
        click.echo(f"  {problem}")


@click.command(help=__doc__)
@click.option("--seed", type=int, help="Play this one alone, and show what happens.")
@click.option("--seeds", default=2_000, show_default=True, help="How many.")
@click.option("--first", default=0, show_default=True, help="The first of them.")
@click.option("--jobs", default=2, show_default=True, help="Processes.")
@click.option("--without", type=click.Choice([each.name for each in SAFEGUARDS]), help="Take a safeguard out.")
@click.option("--safeguards", is_flag=True, help="Take out each in turn: some seed has to notice.")
def main(seed: int | None, seeds: int, first: int, jobs: int, without: str | None, safeguards: bool) -> None:
    prepare()
    if seed is not None:
        with _named(without).taken_out() if without else ExitStack():
            verdict = run(seed, traced=True)
        show(verdict)
        sys.exit(bool(verdict.problems))
    if safeguards or without:
        sys.exit(check_safeguards([without] if without else [each.name for each in SAFEGUARDS], seeds, jobs))
    sys.exit(check_seeds(range(first, first + seeds), jobs))


def check_seeds(seeds: range, jobs: int) -> bool:
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    with ProcessPoolExecutor(jobs, get_context("fork")) as pool:
        running = [pool.submit(first_failure, chunk) for chunk in chunks]
        with click.progressbar(as_completed(running), len(running), f"{len(seeds)} seeds", file=sys.stderr) as done:
            for future in done:
                if verdict := future.result():
                    pool.shutdown(wait=False, cancel_futures=True)
                    show(verdict)
                    click.echo(f"\nagain: make simulate SEED={verdict.seed}")
                    return True
    click.echo(f"{len(seeds)} seeds, nothing found")
    return False


def check_safeguards(names: list[str], seeds: int, jobs: int) -> bool:
    unnoticed = 0
    with ProcessPoolExecutor(jobs, get_context("fork")) as pool:
        for name, verdict in zip(names, pool.map(noticed, names, [seeds] * len(names)), strict=True):
            unnoticed += verdict is None
            said = "no seed notices" if verdict is None else f"seed {verdict.seed}: {verdict.problems[0]}"
            click.echo(f"without {name}: {said}")
    return unnoticed > 0


if __name__ == "__main__":
    main()
