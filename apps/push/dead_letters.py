"""
Tasks that RabbitMQ has given up, in the queue `push.dead`. (Pushes that could not go are rows of the ledger.)

On the embedded store a task that was tried too often is gone, and the sweep finds whom it was about.
"""

from celery import current_app
from django.conf import settings
from kombu import Exchange, Queue
from kombu.exceptions import ChannelError

NAME = "push.dead"


def _queue() -> Queue:
    return Queue(NAME, Exchange("", type="direct"), queue_arguments={"x-queue-type": "quorum"})


def declare() -> None:
    """Nobody consumes this queue, so that no worker declares it by itself."""
    if settings.BROKER_URL.startswith("amqp"):
        with current_app.connection_for_write() as connection:
            _queue()(connection).declare()


def count_tasks() -> int:
    """Raises kombu's OperationalError."""
    if not settings.BROKER_URL.startswith("amqp"):
        return 0
    with current_app.connection_for_read() as connection:
        try:
            return int(_queue()(connection).queue_declare(passive=True).message_count)
        except ChannelError:
            return 0  # no worker has been there yet


def replay_tasks() -> int:
    """Put those that are there now back to where they came from; returns how many. Raises kombu's OperationalError."""
    gone = 0
    with current_app.connection_for_write() as connection:
        queue = _queue()(connection)
        producer = connection.Producer()
        for _ in range(count_tasks()):
            message = queue.get()
            if message is None:
                break
            producer.publish(
                message.body,
                exchange=current_app.conf.task_default_exchange,
                routing_key=current_app.conf.task_default_routing_key,
                content_type=message.content_type,
                content_encoding=message.content_encoding,
                headers={name: value for name, value in message.headers.items() if not name.startswith("x-")},
                delivery_mode=2,
                confirm_timeout=2,
            )
            message.ack()  # after the confirmation: it may go twice, never not at all
            gone += 1
    return gone
