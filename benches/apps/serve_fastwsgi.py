"""fastwsgi without its banner: serve_fastwsgi.py PORT CALLABLE."""

import sys

import application
import fastwsgi

fastwsgi.run(getattr(application, sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), loglevel=0)
