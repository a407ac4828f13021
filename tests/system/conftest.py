import pytest


@pytest.fixture
def embedded_stores(embedded_valkey: str) -> dict[str, str]:
    return {"REDIS_URL": embedded_valkey, "BROKER_URL": embedded_valkey.removesuffix("/0") + "/1"}


@pytest.fixture
def full_stores(redis_url: str, broker_url: str, cassandra_url: str, postgres_url: str) -> dict[str, str]:
    return {
        "REDIS_URL": redis_url,
        "BROKER_URL": broker_url,
        "CASSANDRA_URL": cassandra_url,
        "DATABASE_URL": postgres_url,
    }
