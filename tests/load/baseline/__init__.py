"""
A chat server by the book, to be measured against: what the tutorials of Django and Channels lead to.

One group per conversation on `channels_redis.core`, one ORM insert per message, stock consumer, stock Daphne. It speaks
the frames of our own wire that are needed: `hello`, `message.send`, `ack`, `message.created`.
"""
