"""bjoern has no command of its own: serve_bjoern.py PORT CALLABLE."""

import sys

import application
import bjoern

bjoern.run(getattr(application, sys.argv[2]), "127.0.0.1", int(sys.argv[1]))
