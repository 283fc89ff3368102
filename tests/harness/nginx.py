"""A real nginx in front of a server: it listens on a port of its own and passes everything on, keep-alive included."""

import os
import signal
import socket
import subprocess
from pathlib import Path

from .http import Connection
from .requirement import command
from .waiting import until

CONFIGURATION = """
daemon off;
master_process off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 64m;
    upstream application {{
        server unix:{upstream};
        keepalive 8;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://application;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto https;
            {extra}
        }}
    }}
}}
"""


class Nginx:
    """`with Nginx(directory, "/path/of/app.sock") as nginx: nginx.connect()`."""

    def __init__(self, directory, upstream, extra=""):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._upstream = upstream
        self._extra = extra
        self._process = None
        self.address = None

    def __enter__(self):
        program = command("nginx")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = probe.getsockname()
        configuration = self.directory / "nginx.conf"
        configuration.write_text(CONFIGURATION.format(directory=self.directory, upstream=self._upstream,
                                                      port=self.address[1], extra=self._extra))
        self._process = subprocess.Popen([program, "-p", self.directory, "-c", configuration],
                                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                         stderr=open(self.directory / "stderr", "wb"))

        def listens():
            assert self._process.poll() is None, self.errors
            Connection(self.address).close()
            return True

        until(listens, "nginx to listen")
        return self

    def __exit__(self, *_):
        os.kill(self._process.pid, signal.SIGTERM)
        self._process.wait(10)

    @property
    def errors(self):
        """What nginx has complained about, e.g. responses that it could not read."""
        return "".join((self.directory / name).read_text() for name in ("stderr", "error.log")
                       if (self.directory / name).exists())

    def connect(self, timeout=10.0):
        return Connection(self.address, timeout)
