"""An ASGI application without any framework: one path for each thing that a test of the asgi pool wants to happen."""

import asyncio
import contextvars
import inspect
import json
import os
import sys
import time
from pathlib import Path

variable = contextvars.ContextVar("variable", default="unset")
seen = []


async def answer(send, body, status=200, headers=()):
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def read(receive):
    body, parts = b"", 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ConnectionResetError("the client has left in the middle of its body")
        body, parts = body + event["body"], parts + 1
        if not event["more_body"]:
            return body, parts


def shown(value):
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(item) for item in value]
    return value.decode("latin-1") if isinstance(value, bytes) else value


async def http(scope, receive, send):
    path, query = scope["path"].removeprefix(scope["root_path"]), scope["query_string"].decode()
    if path == "/scope":
        kinds = {"headers": type(scope["headers"]).__name__, "raw_path": type(scope["raw_path"]).__name__,
                 "query_string": type(scope["query_string"]).__name__}
        await answer(send, json.dumps(shown(scope) | {"kinds": kinds}).encode())
    elif path == "/echo":
        body, parts = await read(receive)
        await answer(send, body, headers=[(b"x-parts", str(parts).encode())])
    elif path == "/ignore":
        await answer(send, b"not read")
    elif path == "/state":
        scope["state"]["mine"] = scope["state"].get("mine", 0) + 1
        scope["state"].setdefault("shared", []).append(1) if "shared" in scope["state"] else None
        await answer(send, json.dumps(shown(scope["state"])).encode())
    elif path == "/sleep":
        await asyncio.sleep(float(query or 1))
        await answer(send, b"slept")
    elif path == "/block":
        seconds, _, entered = query.partition(",")
        if entered:
            Path(entered).touch()
        time.sleep(float(seconds))
        await answer(send, b"blocked")
    elif path == "/shut":
        gate = Path(query)
        gate.with_suffix(".entered").touch()
        while not gate.exists():
            time.sleep(0.005)
        await answer(send, b"opened")
    elif path == "/pid":
        await answer(send, b"%d" % os.getpid())
    elif path == "/gate":
        gate = Path(query)
        gate.with_suffix(".entered").touch()
        while not gate.exists():
            await asyncio.sleep(0.005)
        await answer(send, b"through the gate")
    elif path == "/stream":
        await send({"type": "http.response.start", "status": 200})
        for number in range(5):
            await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
        await send({"type": "http.response.body"})
    elif path == "/events":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for number in range(int(query)):
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
            await asyncio.sleep(0.1)
        await send({"type": "http.response.body", "body": b"data: end\n\n"})
    elif path == "/endless":
        await send({"type": "http.response.start", "status": 200})
        sent = 0
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
                sent += 65536
                Path(query).write_text(str(sent))
        except OSError as error:
            Path(query).with_suffix(".error").write_text(type(error).__name__)
            raise
    elif path == "/disconnect":
        Path(query).with_suffix(".entered").touch()
        body, _ = await read(receive)
        event = await receive()
        Path(query).write_text(event["type"])
        try:
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"late", "more_body": True})
            await asyncio.sleep(0.05)
            for _ in range(20):
                await send({"type": "http.response.body", "body": b"late", "more_body": True})
                await asyncio.sleep(0.01)
        except OSError as error:
            Path(query).with_suffix(".error").write_text(type(error).__name__)
    elif path == "/deaf":
        Path(query).with_suffix(".entered").touch()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            Path(query).write_text("cancelled")
            raise
    elif path == "/after":
        await answer(send, b"done")
        event = await receive()
        Path(query).write_text(event["type"])
    elif path == "/pathsend":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.pathsend", "path": query})
    elif path == "/zerocopysend":
        with open(query, "rb") as file:
            file.seek(10)
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.zerocopysend", "file": file, "count": 5, "more_body": True})
            await send({"type": "http.response.zerocopysend", "file": file, "offset": 0})
    elif path == "/hints":
        await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]})
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.early_hint", "links": [b"</c.css>; rel=preload"]})
        await send({"type": "http.response.body", "body": b"hinted"})
    elif path == "/trailers":
        await send({"type": "http.response.start", "status": 200, "trailers": True})
        await send({"type": "http.response.body", "body": b"body"})
        await send({"type": "http.response.trailers", "headers": [(b"x-first", b"1")], "more_trailers": True})
        await send({"type": "http.response.trailers", "headers": [(b"x-second", b"2"), (b"content-length", b"9")]})
    elif path == "/task":
        task = asyncio.current_task()
        before, value = variable.get(), query or "set"
        variable.set(value)
        await asyncio.sleep(0)
        same = asyncio.current_task() is task
        async with asyncio.timeout(5) if sys.version_info >= (3, 11) else open_nothing():
            await asyncio.gather(asyncio.sleep(0.01), asyncio.to_thread(time.sleep, 0.01))
        await answer(send, json.dumps({"before": before, "after": variable.get(), "same": same, "listed": task in
                                       asyncio.all_tasks(), "loop": type(asyncio.get_running_loop()).__module__}).encode())
    elif path == "/anyio":
        import anyio
        from anyio import get_current_task
        try:
            from sniffio import current_async_library
        except ImportError:
            # anyio knows by itself since 4.12.
            def current_async_library():
                return "asyncio" if get_current_task() and asyncio.get_running_loop() else None

        async def child():
            await anyio.sleep(0.01)
            found.append(current_async_library())

        found = []
        with anyio.move_on_after(0.05) as scope_:
            await anyio.sleep(5)
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            group.start_soon(child)
        found.append(await anyio.to_thread.run_sync(lambda: "thread"))
        await answer(send, json.dumps({"moved_on": scope_.cancelled_caught, "found": found}).encode())
    elif path == "/cancel_self":
        asyncio.current_task().cancel()
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            pass
        await answer(send, b"survived")
    elif path == "/receive_task":
        body, _ = await read(receive)
        waiting = asyncio.create_task(receive())
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        waiting.cancel()
        await answer(send, b"%d %s" % (len(done), body))
    elif path == "/fault":
        await FAULTS[query](receive, send)
    else:
        await answer(send, b"Hello, world!", headers=[(b"content-type", b"text/plain")])


class open_nothing:
    async def __aenter__(self):
        pass

    async def __aexit__(self, *_):
        pass


async def raises(receive, send):
    raise RuntimeError("raised on purpose")


async def raises_late(receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    raise RuntimeError("raised late")


async def raises_after(receive, send):
    await answer(send, b"complete")
    raise RuntimeError("raised after the response")


async def silent(receive, send):
    pass


async def incomplete(receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})


async def body_first(receive, send):
    await send({"type": "http.response.body", "body": b"x"})


async def start_twice(receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.start", "status": 200})


async def text_body(receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": "text"})


async def text_header(receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [("name", "value")]})


async def split_header(receive, send):
    await answer(send, b"", headers=[(b"name", b"a\r\nb: c")])


async def text_status(receive, send):
    await send({"type": "http.response.start", "status": "200"})


async def unknown(receive, send):
    await send({"type": "http.response.nonsense"})


async def no_dict(receive, send):
    await send("http.response.start")


async def short(receive, send):
    await answer(send, b"abc", headers=[(b"content-length", b"10")])


async def long(receive, send):
    await answer(send, b"abcdef", headers=[(b"content-length", b"3")])


FAULTS = {call.__name__: call for call in (raises, raises_late, raises_after, silent, incomplete, body_first, start_twice,
                                           text_body, text_header, split_header, text_status, unknown, no_dict, short, long)}


async def websocket(scope, receive, send):
    path, query = scope["path"], scope["query_string"].decode()
    assert (await receive())["type"] == "websocket.connect"
    if path == "/ws/deny":
        await send({"type": "websocket.close"})
        return
    if path == "/ws/deny_with":
        await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"because")]})
        await send({"type": "websocket.http.response.body", "body": b"go ", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"away"})
        return
    if path == "/ws/silent":
        return
    if path == "/ws/early":
        await send({"type": "websocket.send", "text": "too early"})
    subprotocols = scope["subprotocols"]
    await send({"type": "websocket.accept", "subprotocol": subprotocols[-1] if subprotocols else None,
                "headers": [(b"x-mine", b"yes"), *([(b"x-request-id", b"mine")] if path == "/ws/own_id" else [])]})
    if path == "/ws/scope":
        await send({"type": "websocket.send", "text": json.dumps(shown(scope))})
    if path == "/ws/marked":
        asks = inspect.iscoroutinefunction if sys.version_info >= (3, 12) else asyncio.iscoroutinefunction
        await send({"type": "websocket.send", "text": json.dumps([asks(receive), asks(send)])})
    if path == "/ws/raise":
        raise RuntimeError("raised in a websocket")
    if path == "/ws/close":
        await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
        await send({"type": "websocket.send", "text": "too late"})
    if path == "/ws/return":
        return
    if path == "/ws/flood":
        for _ in range(int(query)):
            await send({"type": "websocket.send", "bytes": b"x" * 65536})
    if path == "/ws/deaf":
        await asyncio.sleep(60)
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            if query.startswith("/"):
                Path(query).write_text(json.dumps([event["code"], event["reason"]]))
            return
        await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})


async def app(scope, receive, send):
    if scope["type"] == "http":
        await http(scope, receive, send)
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        note = os.environ.get("LIFESPAN_NOTE")
        while True:
            event = await receive()
            if note:
                with open(note, "a") as file:
                    file.write(event["type"] + "\n")
            if event["type"] == "lifespan.startup":
                scope["state"]["shared"] = ["from the lifespan"]
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
