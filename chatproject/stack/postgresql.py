"""PostgreSQL, run as a user without rights where we are root."""

import shutil
import signal
import subprocess
from pathlib import Path

import psycopg
from psycopg import sql

from chatproject import processes
from chatproject.stack.service import IS_ROOT, USER, DidNotStart, Service, program


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
        return program(name, self)

    def _unprivileged(self) -> list[str]:
        """PostgreSQL refuses root. The capability lets its user pass the directories above, which are root's alone."""
        if not IS_ROOT:
            return []
        user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"]
        return ["setpriv", *user, "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
