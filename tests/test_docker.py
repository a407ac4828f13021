"""What can be known about the containers without running them."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCKER = Path(__file__).parent.parent / "docker"
IS_CI = os.environ.get("CI") == "true"


@pytest.fixture
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DOCKER / "compose.yaml").read_text()))


def test_every_part_is_there_and_says_whether_it_is_well(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {
        "nginx", "prepare", "node", "worker", "beat", "cassandra", "postgresql", "rabbitmq", "redis"
    }  # fmt: skip
    image_has_a_check = "HEALTHCHECK" in (DOCKER / "Dockerfile").read_text()
    for name, service in services.items():
        assert "healthcheck" in service or (name == "node" and image_has_a_check), name
    assert services["node"]["deploy"]["replicas"] >= 2


def test_what_is_stored_is_on_volumes(compose: dict[str, Any]) -> None:
    for name in ("cassandra", "postgresql", "rabbitmq", "redis"):
        (volume,) = compose["services"][name]["volumes"]
        assert volume.split(":")[0] in compose["volumes"]


def test_nothing_but_nginx_is_reachable_from_outside(compose: dict[str, Any]) -> None:
    assert [name for name, service in compose["services"].items() if "ports" in service] == ["nginx"]


def test_secrets_come_from_the_environment_and_must_be_there(compose: dict[str, Any]) -> None:
    text = (DOCKER / "compose.yaml").read_text()
    required = set(re.findall(r"\$\{(\w+):\?\}", text))
    assert {"SECRET_KEY", "DATABASE_PASSWORD", "REDIS_PASSWORD", "BROKER_PASSWORD", "CHAT_HOST"} == required
    named = re.findall(r"^(\w+)=(.*)$", (DOCKER / "env.example").read_text(), re.MULTILINE)
    assert required <= {name for name, _ in named}
    assert not any(value for _, value in named)


def test_cassandra_syncs_what_it_acknowledges_after_each_start(compose: dict[str, Any], tmp_path: Path) -> None:
    conf = tmp_path / "cassandra.yaml"
    conf.write_text("commitlog_sync: periodic\ncommitlog_sync_period: 10000ms\n# paxos_variant: v1\nnum_tokens: 16\n")
    command = compose["services"]["cassandra"]["command"]
    for theirs, stand_in in {
        "/etc/cassandra/cassandra.yaml": str(conf),
        "exec docker-entrypoint.sh cassandra -f": "true",
    }.items():
        assert theirs in command[-1]
        command[-1] = command[-1].replace(theirs, stand_in)
    for _ in range(3):  # the container's files outlive a restart
        subprocess.run(command, check=True)
        assert yaml.safe_load(conf.read_text()) == {"commitlog_sync": "batch", "num_tokens": 16, "paxos_variant": "v2"}


def test_images_are_pinned_and_ours_does_not_run_as_root(compose: dict[str, Any]) -> None:
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    images = [line.split()[1] for line in lines if line.startswith("FROM ")]
    images += [service["image"] for service in compose["services"].values() if "image" in service]
    for image in images:
        assert re.search(r":\d+", image), image
    last_user = [line for line in lines if line.startswith("USER ")][-1]
    assert last_user.split()[1] not in ("root", "0")


def test_each_setting_that_the_containers_are_given_is_one_that_the_chat_reads(compose: dict[str, Any]) -> None:
    documented = (DOCKER.parent / "docs" / "configuration.md").read_text()
    for name in compose["services"]["node"]["environment"]:
        assert f"`{name}`" in documented, name


def test_docker_reads_compose_as_we_do() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("there is no docker compose; the file was read as YAML above")
    names = ("SECRET_KEY", "DATABASE_PASSWORD", "REDIS_PASSWORD", "BROKER_PASSWORD", "CHAT_HOST")
    read = subprocess.run(
        [docker, "compose", "-f", str(DOCKER / "compose.yaml"), "config", "--quiet"],
        env=os.environ | dict.fromkeys(names, "x"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert read.returncode == 0, read.stderr


@pytest.mark.skipif(shutil.which("nginx") is None and not IS_CI, reason="there is no nginx")
def test_nginx_accepts_its_configuration(tmp_path: Path) -> None:
    certificate = ["-keyout", str(tmp_path / "privkey.pem"), "-out", str(tmp_path / "fullchain.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=chat", *certificate],
        check=True,
        capture_output=True,
    )
    conf = (DOCKER / "nginx.conf").read_text()
    for ours, here in {
        "/etc/nginx/certs": str(tmp_path),
        "node:8000": "127.0.0.1:8000",  # there is no such host here
        "pid /tmp": f"pid {tmp_path}",
    }.items():
        assert ours in conf
        conf = conf.replace(ours, here)
    (tmp_path / "nginx.conf").write_text(conf)
    nginx = shutil.which("nginx")
    assert nginx is not None, "there is no nginx"
    tried = subprocess.run(
        [nginx, "-t", "-q", "-c", str(tmp_path / "nginx.conf")], capture_output=True, text=True, check=False
    )
    assert tried.returncode == 0, tried.stderr
