"""
Checks a recorded run: python -m tests.consistency FILE

Exit code 0: nothing found; 1: violations; 2: the file cannot be read or a line is no operation.
"""

import sys
from collections import Counter
from pathlib import Path

import click

from tests.consistency.checker import check
from tests.consistency.history import Rubbish, read_file


@click.command(help=__doc__)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(file: Path) -> None:
    try:
        violations = check(read_file(file))
    except Rubbish as error:
        click.echo(f"{file}: {error}", err=True)
        sys.exit(2)
    for violation in violations:
        click.echo(violation)
    names = Counter(violation.name for violation in violations)
    found = ", ".join(f"{count} {name}" for name, count in names.items()) or "nothing found"
    click.echo(found)
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
