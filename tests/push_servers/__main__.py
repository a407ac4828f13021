"""
FCM's and APNs' servers as a process: `python -m tests.push_servers [ANSWER_MS]`.

Prints the settings that make a chat server use them, as JSON in one line, and runs until its input ends.
"""

import json
import sys
import tempfile
from pathlib import Path

from tests.push_servers.apns import ApnsServer
from tests.push_servers.fcm import FcmServer


def main(answer_ms: float) -> None:
    with tempfile.TemporaryDirectory() as directory, FcmServer(Path(directory)) as fcm:
        with ApnsServer(Path(directory)) as apns:
            fcm.answer_time_s = apns.answer_time_s = answer_ms / 1_000
            print(json.dumps(fcm.settings | apns.settings), flush=True)
            sys.stdin.read()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 0)
