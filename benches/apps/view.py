"""A view that computes for so many milliseconds of processor time, and then waits, as for a database."""

import time
from urllib.parse import parse_qs


def app(environ, start_response):
    query = parse_qs(environ["QUERY_STRING"])
    end = time.thread_time() + int(query.get("compute", ["0"])[0]) / 1000
    while time.thread_time() < end:
        sum(range(100))
    if "wait" in query:
        time.sleep(int(query["wait"][0]) / 1000)
    start_response("200 OK", [("Content-Length", "3")])
    return [b"ok\n"]
