"""RabbitMQ, with a port mapper of its own, so that it meets no other one on the same machine."""

import time

from kombu.connection import Connection

from chatproject import processes
from chatproject.stack.service import USER, Service, program


class RabbitMQ(Service):
    name = "rabbitmq"
    packages = ("rabbitmq-server",)
    ports_needed = 3  # AMQP, Erlang's distribution, and the port mapper of Erlang

    @property
    def url(self) -> str:
        return f"amqp://{USER}:{self.kept.password}@127.0.0.1:{self.port}//"

    def check_installed(self) -> None:
        program("/usr/lib/rabbitmq/bin/rabbitmq-server", self)
        program("epmd", self)

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
        mapper = [program("epmd", self), "-address", "127.0.0.1", "-port", str(self.kept.ports[2])]
        self.run(self.home / "epmd.pid", mapper)
        _wait_for_port(self.kept.ports[2])

    def command(self) -> list[str]:
        return [program("/usr/lib/rabbitmq/bin/rabbitmq-server", self)]

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


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while not processes.port_answers(port) and time.monotonic() < deadline:
        time.sleep(0.05)
