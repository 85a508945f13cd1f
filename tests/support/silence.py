"""A way to a server whose connections can fall silent: nothing closes them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

HOST = "127.0.0.1"


class SilentWay:
    """Passes bytes on to `address`, except on connections that were silenced."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.server = (host, int(port))
        self.connections = 0
        self.silent_up_to = 0
        self.listener = socket.create_server((HOST, 0))
        self.address = f"{HOST}:{self.listener.getsockname()[1]}"
        self.sockets: list[socket.socket] = [self.listener]
        threading.Thread(target=self._listen, daemon=True).start()

    def fall_silent(self) -> None:
        """Answer nothing more on the connections that are open now."""
        self.silent_up_to = self.connections

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(self.server)
                self.connections += 1
                self.sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    arguments = (*pair, self.connections)
                    threading.Thread(
                        target=self._pass_on, args=arguments, daemon=True
                    ).start()

    def _pass_on(self, here: socket.socket, there: socket.socket, number: int) -> None:
        with suppress(OSError):
            while data := here.recv(65536):
                if number > self.silent_up_to:
                    there.sendall(data)

    def close(self) -> None:
        for each in self.sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@contextmanager
def silent_way(address: str) -> Iterator[SilentWay]:
    way = SilentWay(address)
    try:
        yield way
    finally:
        way.close()
