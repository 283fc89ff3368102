"""What `make demo` serves: a Flask application with a page for each thing worth trying."""

import os
import time

from flask import Flask, Response, request

app = Flask(__name__)

PAGE = """<!doctype html>
<title>rgunicorn</title>
<style>body{{font:16px/1.5 sans-serif;max-width:42em;margin:3em auto;padding:0 1em}}code{{background:#eee}}</style>
<h1>It works.</h1>
<p>Worker {pid} answered, from Python {python}.</p>
<ul>
<li><a href="/hello/you">/hello/you</a>: an ordinary page
<li><a href="/slow">/slow</a>: thinks for two seconds
<li><a href="/stream">/stream</a>: is sent while it is made
<li><a href="/error">/error</a>: raises; the traceback is one record in the log
<li><a href="/environ">/environ</a>: what the application is told about the request
</ul>
"""


@app.get("/")
def index():
    import platform

    return PAGE.format(pid=os.getpid(), python=platform.python_version())


@app.get("/hello/<name>")
def hello(name):
    return {"hello": name, "worker": os.getpid()}


@app.get("/slow")
def slow():
    time.sleep(2)
    return f"worker {os.getpid()} took its time\n"


@app.get("/stream")
def stream():
    def lines():
        for number in range(1, 11):
            yield f"line {number} of 10\n"
            time.sleep(0.3)

    return Response(lines(), mimetype="text/plain")


@app.get("/error")
def error():
    raise RuntimeError("this page always fails")


@app.get("/environ")
def environ():
    lines = (f"{name} = {value!r}" for name, value in sorted(request.environ.items()))
    return Response("\n".join(lines) + "\n", mimetype="text/plain")
