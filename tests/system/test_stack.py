"""The services as `make services` runs them: started once, found again, and only ever stopped by who started them."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import redis

from chatproject import processes
from chatproject.stack import DidNotStart, Missing, Redis
from tests.conftest import IS_CI

pytestmark = [pytest.mark.services, pytest.mark.system]


@pytest.fixture
def store(tmp_path: Path) -> Redis:
    service = Redis(tmp_path)
    try:
        service.check_installed()
    except Missing as missing:
        if IS_CI:
            raise
        pytest.skip(str(missing))
    return service


def test_a_service_keeps_its_data_and_address_over_a_restart(store: Redis, tmp_path: Path) -> None:
    url = store.start()
    with redis.Redis.from_url(url) as client:
        client.set("kept", "yes")
    store.stop()
    with redis.Redis.from_url(url) as client, pytest.raises(redis.ConnectionError):
        client.ping()

    again = Redis(tmp_path)
    assert again.start() == url
    with redis.Redis.from_url(url) as client:
        assert client.get("kept") == b"yes"
    again.stop()


def test_a_service_gets_ports_that_no_outgoing_connection_can_take() -> None:
    ports = processes.free_ports(50)
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first, last = map(int, given.read_text().split()) if given.exists() else (49_152, 65_535)
    assert len(set(ports)) == 50
    assert not any(first <= port <= last for port in ports)


def test_starting_one_that_runs_leaves_it_running(store: Redis, tmp_path: Path) -> None:
    url = store.start()
    pid = processes.named_in(store.pid_file, store.home)
    assert Redis(tmp_path).start() == url
    assert processes.named_in(store.pid_file, store.home) == pid
    store.stop()
    assert not store.pid_file.exists()


def test_nobody_gets_in_without_the_password(store: Redis, postgres_url: str) -> None:
    url = store.start()
    with redis.Redis.from_url(url.replace(store.kept.password, "guess")) as client:
        with pytest.raises(redis.AuthenticationError):
            client.ping()
    store.stop()
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgres_url.replace("chat:", "chat:x", 1))


def test_one_that_does_not_start_says_where_to_look(store: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare() -> None:
        (store.home / "redis.conf").write_text("no-such-directive yes\n")

    monkeypatch.setattr(store, "prepare", prepare)
    with pytest.raises(DidNotStart, match=r"redis\.log ends: .*no-such-directive"):
        store.start()
    assert not store.pid_file.exists()


def test_postgresql_syncs_what_it_confirms(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        for setting in ("fsync", "synchronous_commit"):
            assert connection.execute(f"SHOW {setting}").fetchone() == ("on",)


def test_a_missing_program_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Missing, match="install redis-server"):
        Redis(tmp_path).start()
    assert not (tmp_path / "redis").exists()


def test_a_command_that_does_not_exist_is_told_which_do(tmp_path: Path) -> None:
    tried = subprocess.run(
        [sys.executable, "-m", "chatproject.stack", "begin"],
        env=os.environ | {"DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert tried.returncode == 2
    assert tried.stderr == "usage: python -m chatproject.stack start | stop | install\n"
    assert not (tmp_path / "services").exists()
