"""What a node counts. Names and meanings are listed in docs/operations.md."""

from prometheus_client import Counter, Gauge, Histogram

connections = Gauge("chat_connections", "Open WebSockets of this node")
connects = Counter("chat_connects_total", "WebSockets accepted")
frames_in = Counter("chat_frames_received_total", "Frames from clients", ["type"])
deliveries = Counter("chat_frames_delivered_total", "Messages and other events handed to sockets of this node")
stored = Counter("chat_messages_stored_total", "Messages numbered and stored through this node")
acked = Counter("chat_messages_acked_total", "Acks sent by this node")
nacked = Counter("chat_messages_nacked_total", "Refusals sent by this node", ["code"])
resyncs = Counter("chat_resyncs_total", "Times this node told its sockets to catch up", ["reason"])
reconnects = Counter("chat_bus_reconnects_total", "Times the bus subscription was cut and came back")
overflows = Counter("chat_queue_overflows_total", "Bounded queues that were full", ["queue"])
refused = Counter("chat_connects_refused_total", "WebSockets turned away before the upgrade", ["reason"])
limited = Counter("chat_rate_limited_total", "Requests above a rate limit", ["limit"])
loop_lag = Gauge("chat_loop_lag_seconds", "How late the event loop gets to what is due")
bus_queue = Gauge("chat_bus_queue_depth", "Redis commands waiting for their pipeline")
handed_over = Counter("chat_messages_handed_over_total", "Messages that another node stored for this one")
store_seconds = Histogram(
    "chat_store_append_seconds",
    "From asking the history store to its decision",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
audited = Counter("chat_audit_messages_checked_total", "Stored messages that this node looked at again")
audit_violations = Counter("chat_audit_violations_total", "Times that this found something wrong with the history")
client_gap_repairs = Counter("chat_client_gap_repairs_total", "Gaps that clients report to have repaired")
client_lost = Counter("chat_client_lost_total", "Acked messages of their own that clients report to miss")
pushes = Counter("chat_push_handovers_total", "Push tasks handed over", ["to"])
