"""Cassandra from its jars, which Maven fetches once: one small node that starts fast and syncs before it answers."""

import logging
import os
import secrets
import shutil
import subprocess
from pathlib import Path

from cassandra import DriverException
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.policies import RoundRobinPolicy

from chatproject import processes
from chatproject.stack.service import USER, Missing, Service

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chatproject"
CASSANDRA_VERSION = "5.0.6"
logging.getLogger("cassandra").setLevel(logging.CRITICAL)  # being refused is part of waiting for it


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
            "commitlog_sync": "batch",
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
        (self.home / "logback.xml").write_text(_LOGGING)

    def command(self) -> list[str]:
        jars = sorted(str(jar) for jar in fetch_cassandra().glob("*.jar"))
        flags = [
            f"-Dcassandra.config=file://{self.home}/cassandra.yaml",
            f"-Dcassandra.storagedir={self.home}/data",
            f"-Dlogback.configurationFile={self.home}/logback.xml",
            "-Dcassandra-foreground=yes",
            "-Dcassandra.skip_wait_for_gossip_to_settle=0",
            "-Dcassandra.ring_delay_ms=0",
            "-Dcassandra.superuser_setup_delay_ms=0",
            "-Dcassandra.jmx.local.port=0",
            "-Djdk.attach.allowAttachSelf=true",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",  # more compiling takes a third of a core for minutes, and gains little
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
        return [*_CALMLY, _java(), f"@{arguments}", "org.apache.cassandra.service.CassandraDaemon"]

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


# The timer slack of its threads: idle ones look for work every 10 µs for a while, on a core that the nodes need too.
_CALMLY = ("sh", "-c", 'slack=/proc/self/timerslack_ns; [ -w $slack ] && echo 2000000 > $slack; exec "$@"', "sh")

# Without one, it tells each of its compactions in detail.
_LOGGING = """<configuration>
  <appender name="console" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%date{ISO8601} %level %logger{0} %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="console"/></root>
</configuration>
"""

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
