"""
REST, `/api/v1/` (docs/protocol.md, section 2). A view checks the shape of what comes in, and calls services and reads.

What goes out is encoded by the codec of the WebSocket, so that a message or conversation looks the same on both ways.
"""
