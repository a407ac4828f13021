"""Redis with its append-only file on."""

import redis

from chatproject import processes
from chatproject.stack.service import Service, program


class Redis(Service):
    name = "redis"
    packages = ("redis-server",)

    @property
    def url(self) -> str:
        return f"redis://:{self.kept.password}@127.0.0.1:{self.port}/0"

    def check_installed(self) -> None:
        program("redis-server", self)

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
        return [program("redis-server", self), str(self.home / "redis.conf")]

    def answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=2) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False
