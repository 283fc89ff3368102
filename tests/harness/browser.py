"""A client with cookies, as a person's browser: it keeps what it is given and follows nothing by itself."""

from http.cookies import SimpleCookie
from urllib.parse import urlencode


class Browser:
    """Requests to one address. `connect` opens a connection; one is kept open as long as the server lets it."""

    def __init__(self, connect, headers=()):
        self._connect = connect
        self._connection = None
        self._headers = list(headers)
        self.cookies = {}

    def get(self, target, headers=()):
        return self._exchange("GET", target, headers, None)

    def post(self, target, body, content_type, headers=()):
        return self._exchange("POST", target, [("Content-Type", content_type), *headers], body)

    def post_form(self, target, fields, headers=()):
        return self.post(target, urlencode(fields).encode(), "application/x-www-form-urlencoded", headers)

    def post_file(self, target, name, data, fields=(), headers=()):
        """multipart/form-data (RFC 7578) with one file."""
        mark = "----------boundary-of-the-tests"
        parts = [f'--{mark}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
                 for key, value in fields]
        parts.append(f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
                     "Content-Type: application/octet-stream\r\n\r\n".encode() + data + b"\r\n")
        body = b"".join(parts) + f"--{mark}--\r\n".encode()
        return self.post(target, body, f"multipart/form-data; boundary={mark}", headers)

    def close(self):
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, method, target, headers, body):
        headers = [*self._headers, *headers]
        if self.cookies:
            headers.append(("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items())))
        if self._connection is None:
            self._connection = self._connect()
        response = self._connection.exchange(method, target, headers, body)
        if response.framing == "close" or (response.header("Connection") or "").lower() == "close":
            self.close()
        for line in response.all("Set-Cookie"):
            for name, morsel in SimpleCookie(line).items():
                self.cookies[name] = morsel.value
        return response
