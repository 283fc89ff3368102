"""A WebSocket client that sees bytes: it sends the frames that it is told, also wrong ones."""

import base64
import struct

KEY = base64.b64encode(b"0123456789abcdef").decode()


def handshake(path="/ws/echo", **fields):
    fields = {"Host": "a", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
              "Sec-WebSocket-Key": KEY} | {name.replace("_", "-"): value for name, value in fields.items()}
    lines = [f"{name}: {value}\r\n" for name, value in fields.items() if value is not None]
    return f"GET {path} HTTP/1.1\r\n{''.join(lines)}\r\n"


def frame(first, payload=b"", mask=b"\1\2\3\4"):
    length = len(payload)
    head = bytes([first]) + (bytes([0x80 | length]) if length < 126 else b"\xfe" + struct.pack(">H", length)
                             if length < 65536 else b"\xff" + struct.pack(">Q", length))
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


class Raw:
    """A WebSocket of bytes."""

    def __init__(self, server, path="/ws/echo", **fields):
        self.connection = server.connect()
        self.connection.send(handshake(path, **fields))
        self.head = b""
        while b"\r\n\r\n" not in self.head:
            part = self.connection.socket.recv(1)
            assert part, self.head
            self.head += part

    def send(self, *frames):
        self.connection.send(b"".join(frames))

    def exactly(self, count):
        data = b""
        while len(data) < count:
            part = self.connection.socket.recv(count - len(data))
            if not part:
                raise EOFError(data)
            data += part
        return data

    def frame(self):
        first, length = self.exactly(2)
        assert not length & 0x80, "a server does not mask"
        if length == 126:
            (length,) = struct.unpack(">H", self.exactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self.exactly(8))
        return first, self.exactly(length)

    def closed(self):
        """The close code, and then nothing but the end."""
        first, payload = self.frame()
        assert first == 0x88, (first, payload)
        assert self.connection.socket.recv(1) == b""
        return struct.unpack(">H", payload[:2])[0] if payload else None
