"""The same small application in Starlette, FastAPI and Quart: what ASGI's frameworks ask of a server."""

import asyncio
import hashlib
from contextlib import asynccontextmanager

HERE = __file__
told = []


@asynccontextmanager
async def lifespan(app):
    told.append("started")
    yield {"database": "from the lifespan"}
    told.append("stopped")


async def uncaught(websocket):
    await websocket.accept()
    await websocket.send_text("open")
    while True:
        await websocket.receive_text()


async def ticks(websocket):
    await websocket.accept()
    while True:
        await websocket.send_text("tick")
        await asyncio.sleep(0.01)


def starlette():
    from starlette.applications import Starlette
    from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
    from starlette.routing import Route, WebSocketRoute

    async def index(request):
        return PlainTextResponse("Hello from Starlette")

    async def upload(request):
        form = await request.form()
        data = await form["file"].read()
        return JSONResponse({"size": len(data), "sha256": hashlib.sha256(data).hexdigest()})

    async def stream(request):
        async def numbers():
            for number in range(100):
                yield f"{number}\n"

        return StreamingResponse(numbers(), media_type="text/plain")

    async def file(request):
        return FileResponse(HERE)

    async def state(request):
        return JSONResponse({"database": request.state.database, "told": told})

    async def error(request):
        raise ValueError("an error of the application")

    async def background(request):
        from starlette.background import BackgroundTask

        async def later():
            await asyncio.sleep(0.05)
            told.append("later")

        return PlainTextResponse("now", background=BackgroundTask(later))

    async def echo(websocket):
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    return Starlette(lifespan=lifespan, routes=[
        Route("/", index), Route("/upload", upload, methods=["POST"]), Route("/stream", stream), Route("/file", file),
        Route("/state", state), Route("/error", error), Route("/background", background), WebSocketRoute("/ws", echo),
        WebSocketRoute("/ws/uncaught", uncaught), WebSocketRoute("/ws/ticks", ticks)])


def fastapi():
    from fastapi import FastAPI, Request, UploadFile, WebSocket
    from fastapi.responses import FileResponse, StreamingResponse
    from starlette.routing import WebSocketRoute

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def index():
        return "Hello from FastAPI"

    @app.post("/upload")
    async def upload(file: UploadFile):
        data = await file.read()
        return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    @app.get("/stream")
    def stream():
        # Iterated in a thread.
        return StreamingResponse((f"{number}\n" for number in range(100)), media_type="text/plain")

    @app.get("/file")
    async def file():
        return FileResponse(HERE)

    @app.get("/state")
    async def state(request: Request):
        return {"database": request.state.database, "told": told}

    @app.get("/error")
    async def error():
        raise ValueError("an error of the application")

    @app.get("/items/{number}")
    def item(number: int, q: str | None = None):
        return {"number": number, "q": q}

    @app.websocket("/ws")
    async def echo(websocket: WebSocket):
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    app.router.routes += [WebSocketRoute("/ws/uncaught", uncaught), WebSocketRoute("/ws/ticks", ticks)]
    return app


def quart():
    from quart import Quart, request, send_file, websocket

    app = Quart(__name__)

    @app.before_serving
    async def begin():
        told.append("started")

    @app.get("/")
    async def index():
        return "Hello from Quart"

    @app.post("/upload")
    async def upload():
        data = (await request.files)["file"].read()
        return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    @app.get("/stream")
    async def stream():
        async def numbers():
            for number in range(100):
                yield f"{number}\n".encode()

        return numbers()

    @app.get("/file")
    async def file():
        return await send_file(HERE)

    @app.get("/state")
    async def state():
        return {"database": "from the lifespan", "told": told}

    @app.get("/error")
    async def error():
        raise ValueError("an error of the application")

    @app.websocket("/ws")
    async def echo():
        while True:
            await websocket.send(await websocket.receive())

    return app
