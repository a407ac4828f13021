"""
The real services on 127.0.0.1, without containers: Cassandra, Redis, RabbitMQ and PostgreSQL, each durable.

`python -m chatproject.stack start` keeps them under $DATA/services, on ports and with passwords of their own, and
writes their URLs to services.env there; `stop` ends those that it started, and `install` fetches what is missing. The
tests start the same classes in a temporary directory.
"""

import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg
import redis
from cassandra import DriverException
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.policies import RoundRobinPolicy
from kombu.connection import Connection
from psycopg import sql

from chatproject import processes

BASE_DIR = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chatproject"
CASSANDRA_VERSION = "5.0.6"
USER = "chat"
START_DEADLINE_S = 90
STOP_GRACE_S = 20
IS_ROOT = os.geteuid() == 0
logging.getLogger("cassandra").setLevel(logging.CRITICAL)  # being refused is part of waiting for it


class Missing(Exception):
    """A service can't be had here; says what to install."""


class DidNotStart(Exception):
    """Says where its log is, and how that ends."""


@dataclass
class Kept:
    """What stays the same over restarts."""

    password: str
    ports: list[int]


class Service(ABC):
    """One server with its data under `home`. Subclasses say what it needs, how it is run, and whether it answers."""

    name: str
    packages: tuple[str, ...]
    ports_needed = 1
    stop_signal = signal.SIGTERM

    def __init__(self, services: Path) -> None:
        self.home = (services / self.name).resolve()
        self.pid_file = self.home / f"{self.name}.pid"
        self.log_file = self.home / f"{self.name}.log"
        self.kept = Kept("", [])
        self._children: list[subprocess.Popen[bytes]] = []

    @property
    @abstractmethod
    def url(self) -> str: ...

    @property
    def port(self) -> int:
        return self.kept.ports[0]

    def start(self) -> str:
        """Its URL, once it answers there. One that runs already is left running."""
        self.check_installed()
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if processes.named_in(self.pid_file, self.home) is None:
            self._keep()
            self.prepare()
            self.run(self.pid_file, self.command())
        else:
            self._remember()
        self._wait()
        return self.url

    def stop(self) -> None:
        for pid_file in sorted(self.home.glob("*.pid"), key=lambda file: file != self.pid_file):
            processes.end(pid_file, self.home, grace_s=STOP_GRACE_S, how=self.stop_signal)
        while self._children:
            child = self._children.pop()
            child.send_signal(self.stop_signal)  # ours, even if it has no title yet
            try:
                child.wait(STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def run(self, pid_file: Path, command: list[str]) -> None:
        with self.log_file.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env=os.environ | {"HOME": str(self.home)} | self.environment(),
                start_new_session=True,
            )
        self._children.append(process)
        pid_file.write_text(f"{process.pid}\n")

    @abstractmethod
    def check_installed(self) -> None:
        """Raises Missing."""

    @abstractmethod
    def prepare(self) -> None:
        """Write what it reads when it starts."""

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def answers(self) -> bool: ...

    def environment(self) -> dict[str, str]:
        return {}

    def _remember(self) -> None:
        self.kept = Kept(**json.loads((self.home / "kept.json").read_text()))

    def _keep(self) -> None:
        file = self.home / "kept.json"
        if file.exists():
            self._remember()
        if not all(processes.port_is_free(port) for port in self.kept.ports) or not self.kept.ports:
            self.kept.ports = processes.free_ports(self.ports_needed)
        self.kept.password = self.kept.password or secrets.token_hex(16)
        processes.write_private(file, json.dumps(asdict(self.kept)))

    def _runs(self) -> bool:
        # A child of ours is known by itself: Redis has no title for a moment, while it gives itself one.
        if self._children:
            return all(child.poll() is None for child in self._children)
        return processes.named_in(self.pid_file, self.home) is not None

    def _wait(self) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while not self.answers():
            if time.monotonic() > deadline or not self._runs():
                last = self.log_file.read_text(errors="replace").splitlines()[-3:]
                self.stop()
                raise DidNotStart(f"{self.name} did not start; {self.log_file} ends: {' | '.join(last)}")
            time.sleep(0.1)


class Redis(Service):
    name = "redis"
    packages = ("redis-server",)

    @property
    def url(self) -> str:
        return f"redis://:{self.kept.password}@127.0.0.1:{self.port}/0"

    def check_installed(self) -> None:
        _program("redis-server", self)

    def prepare(self) -> None:
        conf = {
            "bind": "127.0.0.1",
            "port": self.port,
            "requirepass": self.kept.password,
            "dir": f'"{self.home}"',
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "proc-title-template": '"{title} {config-file}"',  # by which it is known as ours
        }
        processes.write_private(self.home / "redis.conf", "".join(f"{name} {value}\n" for name, value in conf.items()))

    def command(self) -> list[str]:
        return [_program("redis-server", self), str(self.home / "redis.conf")]

    def answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=2) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False


class RabbitMQ(Service):
    name = "rabbitmq"
    packages = ("rabbitmq-server",)
    ports_needed = 3  # AMQP, Erlang's distribution, and the port mapper of Erlang

    @property
    def url(self) -> str:
        return f"amqp://{USER}:{self.kept.password}@127.0.0.1:{self.port}//"

    def check_installed(self) -> None:
        _program("/usr/lib/rabbitmq/bin/rabbitmq-server", self)
        _program("epmd", self)

    def prepare(self) -> None:
        conf = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "default_user": USER,
            "default_pass": self.kept.password,
            "log.console": "true",
            "log.console.level": "warning",
            "log.file": "false",
        }
        text = "".join(f"{name} = {value}\n" for name, value in conf.items())
        processes.write_private(self.home / "rabbitmq.conf", text)
        (self.home / "enabled_plugins").write_text("[].\n")
        # RabbitMQ would start a port mapper of its own, and leave it behind.
        mapper = [_program("epmd", self), "-address", "127.0.0.1", "-port", str(self.kept.ports[2])]
        self.run(self.home / "epmd.pid", mapper)
        _wait_for_port(self.kept.ports[2])

    def command(self) -> list[str]:
        return [_program("/usr/lib/rabbitmq/bin/rabbitmq-server", self)]

    def environment(self) -> dict[str, str]:
        return {
            "ERL_EPMD_PORT": str(self.kept.ports[-1]),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_ALLOW_INPUT": "true",  # the pid is the broker's, not a shell's
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self.home / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(self.kept.ports[1]),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.home / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(self.home / "log"),
            "RABBITMQ_MNESIA_BASE": str(self.home / "data"),
            "RABBITMQ_NODENAME": f"{USER}{self.port}@localhost",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput +S 2:2 +sbwt none",
        }

    def answers(self) -> bool:
        try:
            with Connection(self.url, connect_timeout=2) as connection:  # type: ignore[no-untyped-call]
                connection.connect()
        except OSError:
            return False
        return True


class PostgreSQL(Service):
    name = "postgresql"
    packages = ("postgresql",)
    stop_signal = signal.SIGINT  # on SIGTERM it would wait until every client has gone

    @property
    def url(self) -> str:
        return f"postgres://{USER}:{self.kept.password}@127.0.0.1:{self.port}/{USER}"

    def check_installed(self) -> None:
        self._program("postgres")

    def prepare(self) -> None:
        data = self.home / "data"
        if (data / "PG_VERSION").exists():
            return
        data.mkdir(mode=0o700, exist_ok=True)
        password_file = self.home / "password"
        processes.write_private(password_file, self.kept.password)
        if IS_ROOT:
            shutil.chown(data, "postgres", "postgres")
        initdb = [self._program("initdb"), "-D", str(data), "-U", USER, "--pwfile", str(password_file)]
        initdb += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"]
        done = subprocess.run([*self._unprivileged(), *initdb], capture_output=True, text=True, check=False)
        password_file.unlink()
        if done.returncode != 0:
            shutil.rmtree(data)
            raise DidNotStart(f"initdb failed: {done.stderr.strip()}")

    def command(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
        }
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [*self._unprivileged(), self._program("postgres"), "-D", str(self.home / "data"), *flags]

    def answers(self) -> bool:
        server = f"postgres://{USER}:{self.kept.password}@127.0.0.1:{self.port}/postgres"
        try:
            with psycopg.connect(server, autocommit=True, connect_timeout=2) as connection:
                if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (USER,)).fetchone():
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(USER)))
        except psycopg.OperationalError:
            return False
        return True

    def _program(self, name: str) -> str:
        """Debian keeps the servers out of PATH, one directory per version."""
        versions = sorted(Path("/usr/lib/postgresql").glob("*"), key=lambda path: path.name.zfill(4), reverse=True)
        for version in versions:
            if (version / "bin" / name).exists():
                return str(version / "bin" / name)
        return _program(name, self)

    def _unprivileged(self) -> list[str]:
        """PostgreSQL refuses root. The capability lets its user pass the directories above, which are root's alone."""
        if not IS_ROOT:
            return []
        user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"]
        return ["setpriv", *user, "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]


class Cassandra(Service):
    name = "cassandra"
    packages = ("openjdk-17-jre-headless", "maven")
    ports_needed = 3  # CQL, and the two that other nodes would use

    @property
    def url(self) -> str:
        return f"cassandra://{USER}:{self.kept.password}@127.0.0.1:{self.port}/{USER}"

    def check_installed(self) -> None:
        _java()
        fetch_cassandra()

    def prepare(self) -> None:
        seeds = f'{{class_name: {_SEEDS}, parameters: [{{seeds: "127.0.0.1:{self.kept.ports[1]}"}}]}}'
        conf = {
            "cluster_name": "chat",
            "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
            "endpoint_snitch": "SimpleSnitch",
            "seed_provider": f"[{seeds}]",
            "listen_address": "127.0.0.1",
            "rpc_address": "127.0.0.1",
            "native_transport_port": self.port,
            "storage_port": self.kept.ports[1],
            "ssl_storage_port": self.kept.ports[2],
            "authenticator": "PasswordAuthenticator",
            "role_manager": "CassandraRoleManager",
            # Acknowledged means synced: the default would answer up to 10 s before.
            "commitlog_sync": "group",
            "commitlog_sync_group_window": "2ms",
            "paxos_variant": "v2",
            # One small node that starts fast.
            "num_tokens": 1,
            "initial_token": '"0"',
            "auto_bootstrap": "false",
            "auto_snapshot": "false",
            "hinted_handoff_enabled": "false",
            "commitlog_segment_size": "4MiB",
            "memtable_heap_space": "64MiB",
            "memtable_offheap_space": "64MiB",
            "key_cache_size": "0MiB",
        }
        (self.home / "cassandra.yaml").write_text("".join(f"{name}: {value}\n" for name, value in conf.items()))

    def command(self) -> list[str]:
        jars = sorted(str(jar) for jar in fetch_cassandra().glob("*.jar"))
        flags = [
            f"-Dcassandra.config=file://{self.home}/cassandra.yaml",
            f"-Dcassandra.storagedir={self.home}/data",
            "-Dcassandra-foreground=yes",
            "-Dcassandra.skip_wait_for_gossip_to_settle=0",
            "-Dcassandra.ring_delay_ms=0",
            "-Dcassandra.superuser_setup_delay_ms=0",
            "-Dcassandra.jmx.local.port=0",
            "-Djdk.attach.allowAttachSelf=true",
            "-XX:+UseSerialGC",
            "-XX:-UsePerfData",
            "-Xss512k",
            "-Xms256m",
            "-Xmx512m",
            *(f"--add-exports={each}=ALL-UNNAMED" for each in _EXPORTS),
            *(f"--add-opens={each}=ALL-UNNAMED" for each in _OPENS),
            "-cp",
            ":".join(jars),
        ]
        arguments = self.home / "jvm.args"
        arguments.write_text("".join(f'"{flag}"\n' for flag in flags))
        return [_java(), f"@{arguments}", "org.apache.cassandra.service.CassandraDaemon"]

    def answers(self) -> bool:
        return processes.port_answers(self.port) and (self._lets_in(USER, self.kept.password) or self._make_user())

    def _lets_in(self, user: str, password: str, *statements: str) -> bool:
        cluster = Cluster(
            ["127.0.0.1"],
            port=self.port,
            auth_provider=PlainTextAuthProvider(user, password),
            execution_profiles={EXEC_PROFILE_DEFAULT: ExecutionProfile(RoundRobinPolicy())},
            protocol_version=5,
            connect_timeout=5,
        )
        try:
            session = cluster.connect()
            for statement in statements:
                session.execute(statement)
        except (NoHostAvailable, DriverException):
            return False
        finally:
            cluster.shutdown()
        return True

    def _make_user(self) -> bool:
        """Ours, in the place of the one whose password everybody knows."""
        rights = f"PASSWORD = '{self.kept.password}' AND LOGIN = true AND SUPERUSER = true"
        role = f"CREATE ROLE IF NOT EXISTS {USER} WITH {rights}"
        known = "ALTER ROLE cassandra WITH PASSWORD = '{}'"
        return self._lets_in("cassandra", "cassandra", role, known.format(secrets.token_hex(16)))


_SEEDS = "org.apache.cassandra.locator.SimpleSeedProvider"
# What Cassandra's own start script opens for it on Java 17.
_EXPORTS = (  # noqa: SIM905  (as that script has them)
    "java.base/jdk.internal.misc java.base/jdk.internal.ref java.base/sun.nio.ch java.sql/java.sql"
    " java.management.rmi/com.sun.jmx.remote.internal.rmi java.rmi/sun.rmi.registry java.rmi/sun.rmi.server"
).split()
_OPENS = (  # noqa: SIM905
    "java.base/java.lang.module java.base/jdk.internal.loader java.base/jdk.internal.ref java.base/jdk.internal.reflect"
    " java.base/jdk.internal.math java.base/jdk.internal.module java.base/jdk.internal.util.jar java.base/sun.nio.ch"
    " jdk.management/com.sun.management.internal java.base/java.io java.base/java.nio java.base/java.util.concurrent"
    " java.base/java.util java.base/java.util.concurrent.atomic java.base/java.lang"
).split()

SERVICES: dict[str, type[Service]] = {
    "DATABASE_URL": PostgreSQL,
    "REDIS_URL": Redis,
    "BROKER_URL": RabbitMQ,
    "CASSANDRA_URL": Cassandra,
}


TOOLS = {"chromium": "chromium", "node": "nodejs", "npm": "npm", "nginx": "nginx", "openssl": "openssl"}


def fetch_cassandra() -> Path:
    """The directory with Cassandra's jars; fetched by Maven once."""
    jars = CACHE / f"cassandra-{CASSANDRA_VERSION}"
    if jars.exists():
        return jars
    maven = shutil.which("mvn")
    if maven is None:
        raise Missing("Cassandra: its jars come through Maven; install maven")
    new = jars.with_name(f"{jars.name}.{os.getpid()}")
    new.mkdir(parents=True)
    (new / "pom.xml").write_text(_POM)
    copy = [maven, "-B", "-q", "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=."]
    done = subprocess.run(copy, cwd=new, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(new)
        raise Missing(f"Cassandra: Maven did not get its jars: {done.stdout.strip().splitlines()[:1]}")
    if jars.exists():  # somebody else was faster
        shutil.rmtree(new)
    else:
        new.rename(jars)
    return jars


_POM = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>chat</groupId><artifactId>cassandra</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.cassandra</groupId><artifactId>cassandra-all</artifactId><version>{CASSANDRA_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""


def _java() -> str:
    """Cassandra 5.0 runs on Java 11 and 17, and not on later ones."""
    found = [*sorted(Path("/usr/lib/jvm").glob("java-17-*/bin/java")), shutil.which("java") or ""]
    for java in map(str, filter(None, found)):
        version = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
        if 'version "17' in version:
            return java
    raise Missing("Cassandra: it needs Java 17; install openjdk-17-jre-headless")


def _program(name: str, service: Service) -> str:
    path = shutil.which(name)
    if path is None:
        raise Missing(f"{service.name}: there is no {Path(name).name}; install {' '.join(service.packages)}")
    return path


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while not processes.port_answers(port) and time.monotonic() < deadline:
        time.sleep(0.05)


# --- commands --------------------------------------------------------------------------------------------------------
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
