"""`python -m rgunicorn` is `rgunicorn`."""

from rgunicorn import _main

_main()
