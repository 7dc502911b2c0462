"""A service that listens; the first time it crashes and leaves a child that still holds the port.

    python listening.py PORT MARK

MARK is made by the crash. Told by NOTIFY_SOCKET, it says when it listens.
"""

import os
import socket
import sys
import time


def main(port: int, mark: str) -> int:
    listener = socket.socket()
    listener.bind(("127.0.0.1", port))
    listener.listen()
    if not os.path.exists(mark):
        if os.fork():
            open(mark, "x").close()
            return 1
    elif "NOTIFY_SOCKET" in os.environ:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    while True:
        time.sleep(1000)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
