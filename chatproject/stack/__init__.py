"""
The real services on 127.0.0.1, without containers: Cassandra, Redis, RabbitMQ and PostgreSQL, each durable.

`python -m chatproject.stack start` keeps them under $DATA/services; the tests start the same classes in a temporary
directory.
"""

from chatproject.stack.cassandra import Cassandra
from chatproject.stack.postgresql import PostgreSQL
from chatproject.stack.rabbitmq import RabbitMQ
from chatproject.stack.redis import Redis
from chatproject.stack.service import DidNotStart, Missing, Service

__all__ = ["Cassandra", "DidNotStart", "Missing", "PostgreSQL", "RabbitMQ", "Redis", "Service"]
