"""
`python -m chatproject.stack start` runs the services under $DATA/services, on ports and with passwords of their own,
and writes their URLs to services.env there; `stop` ends those that it started, and `install` fetches what is missing.
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chatproject import processes
from chatproject.stack import Cassandra, DidNotStart, Missing, PostgreSQL, RabbitMQ, Redis, Service
from chatproject.stack.cassandra import fetch_cassandra
from chatproject.stack.service import IS_ROOT

BASE_DIR = Path(__file__).resolve().parent.parent.parent
SERVICES: dict[str, type[Service]] = {
    "DATABASE_URL": PostgreSQL,
    "REDIS_URL": Redis,
    "BROKER_URL": RabbitMQ,
    "CASSANDRA_URL": Cassandra,
}
TOOLS = {"chromium": "chromium", "node": "nodejs", "npm": "npm", "nginx": "nginx", "openssl": "openssl"}


def start(services: Path) -> None:
    services.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        urls = dict(zip(SERVICES, pool.map(lambda service: service(services).start(), SERVICES.values()), strict=True))
    processes.write_private(services / "services.env", "".join(f"{name}={url}\n" for name, url in urls.items()))
    print(f"PostgreSQL, Redis, RabbitMQ and Cassandra run; their URLs are in {services / 'services.env'}")


def stop(services: Path) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda service: service(services).stop(), SERVICES.values()))
    print("the services are stopped")


def install(services: Path) -> None:
    """Debian packages, where that is possible, and Cassandra's jars. What is missing otherwise, a line says each."""
    packages: list[str] = []
    for service in SERVICES.values():
        try:
            service(services).check_installed()
        except Missing as missing:
            packages += service.packages
            print(f"missing: {missing}", file=sys.stderr)
    for program, package in TOOLS.items():
        if shutil.which(program) is None:
            packages.append(package)
            print(f"missing: {program}, for the tests", file=sys.stderr)
    if packages and IS_ROOT and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        apt = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
        subprocess.run([*apt, "update"], check=False, env=environment, stdout=subprocess.DEVNULL)
        subprocess.run(
            [*apt, "install", "-y", "--no-install-recommends", *packages],
            check=False,
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        if shutil.which("mvn"):
            fetch_cassandra()


def main() -> int:
    commands = {"start": start, "stop": stop, "install": install}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        print(f"usage: python -m chatproject.stack {' | '.join(commands)}", file=sys.stderr)
        return 2
    try:
        commands[sys.argv[1]](Path(os.environ.get("DATA") or BASE_DIR / "data").resolve() / "services")
    except (Missing, DidNotStart) as error:
        print(f"services: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
