"""What the tests of the whole stand on.

`Server` is a running rgunicorn, `Connection` a client that sees bytes, `Box` a real systemd in namespaces, `tree` the
files of another Debian for it, `until` the only place that waits. Nothing in here knows what a particular test wants to show.
"""

from .box import Box
from .browser import Browser
from .gate import Gate
from .http import Connection, Response
from .server import Server
from .tree import tree
from .waiting import until

__all__ = ["Box", "Browser", "Connection", "Gate", "Response", "Server", "tree", "until"]
