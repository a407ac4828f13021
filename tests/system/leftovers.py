"""A node whose garbage collector runs at SIGUSR2 alone, and then says what it had to free: what counting left over."""

import gc
import signal

from chatproject import server


def collect(*_: object) -> None:
    freed = gc.collect()
    alive = sum(type(thing) is server.ChatSocket for thing in gc.get_objects())
    print(f"collected {freed} {alive}", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, collect)
    gc.disable()
    server.main()
