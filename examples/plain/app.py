"""The smallest WSGI application: `rgunicorn --chdir examples/plain app`."""


def application(environ, start_response):
    body = f"Hello from {environ['PATH_INFO']}\n".encode("latin-1")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
