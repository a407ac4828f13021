"""What is counted of pushes, in the worker. Names and meanings are listed in docs/operations.md."""

from prometheus_client import Counter, Gauge, Histogram

silences = Counter("chat_push_silences_total", "Members who were not told by a push", ["reason"])
answers = Counter("chat_push_answers_total", "Answers of providers", ["provider", "outcome"])
seconds = Histogram(
    "chat_push_provider_seconds",
    "From asking a provider to its answer",
    ["provider"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15),
)
expired = Counter("chat_push_expired_total", "Pushes that did not go out in time, now dead letters")
open_pushes = Gauge("chat_push_open", "Pushes that have not come to their end")
dead_pushes = Gauge("chat_push_dead", "Dead letters")
misconfigured = Gauge("chat_push_misconfigured", "1 while a provider refuses our credentials", ["provider"])
