"""A fork server, tried out: everything imported once, each predictor a fork that loads its bundle and serves.

    python -m benchmarks.peers.fork_server SOCKET

A line of arguments on the Unix socket SOCKET forks a predictor with them.
"""

import os
import socket
import sys


def main() -> None:
    """Import, then fork at each line."""
    from serving.predictor import start

    start.import_all()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen()
    while True:
        connection, _ = listener.accept()
        arguments = connection.makefile().readline().split()
        if os.fork() == 0:
            listener.close()
            connection.close()
            from serving.predictor import options

            start.serve(options.parse(arguments))
            os._exit(0)
        connection.close()


if __name__ == "__main__":
    main()
