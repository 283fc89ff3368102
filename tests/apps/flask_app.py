"""A Flask application that does what such applications do: forms, uploads, cookies, streams, files, errors."""

import hashlib
import io
import os

from flask import Flask, Response, abort, redirect, request, send_file, session, stream_with_context, url_for

app = Flask(__name__)
app.secret_key = "only for tests"


@app.get("/")
def index():
    return "<h1>Hello from Flask</h1>"


@app.get("/hello/<name>")
def hello(name):
    return {"hello": name, "query": request.args.to_dict(), "pid": os.getpid()}


@app.post("/form")
def form():
    return dict(request.form)


@app.post("/upload")
def upload():
    data = request.files["file"].read()
    return {"name": request.files["file"].filename, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@app.post("/json")
def json():
    return {"got": request.get_json()}


@app.get("/session")
def visits():
    session["visits"] = session.get("visits", 0) + 1
    return {"visits": session["visits"]}


@app.get("/stream")
def stream():
    @stream_with_context
    def numbers():
        for number in range(100):
            yield f"{number}\n"

    return Response(numbers(), mimetype="text/plain")


@app.get("/file")
def file():
    return send_file(__file__, mimetype="text/x-python", conditional=True)


@app.get("/memory")
def memory():
    return send_file(io.BytesIO(b"x" * 300_000), mimetype="application/octet-stream")


@app.get("/redirect")
def moved():
    return redirect(url_for("index"))


@app.get("/unchanged")
def unchanged():
    response = Response("content", headers={"ETag": '"one"'})
    return response.make_conditional(request)


@app.get("/forbidden")
def forbidden():
    abort(403)


@app.get("/error")
def error():
    raise ValueError("an error of the application")


@app.get("/seen")
def seen():
    return {"host": request.host, "scheme": request.scheme, "remote": request.remote_addr, "url": request.url,
            "forwarded": request.headers.get("X-Forwarded-For")}
