"""A small HTTP service around an exported network: images in, masks out.

    python export_seg.py checkpoint=runs/NAME/best.pt output=net.onnx
    python examples/serve.py net.onnx --port 8000
    curl -X POST --data-binary @photo.jpg "http://127.0.0.1:8000/predict" > ids.png
    curl -X POST --data-binary @photo.jpg "http://127.0.0.1:8000/predict?as=colors" > colors.png

``GET /`` names the classes and limits. Masks of more than 256 classes are PNG files of 16 bits. Requests wait
in one queue; those of one size that wait together are run as one batch. A full queue answers 503 at once, a
request that takes too long 408. Connections are limited in number, and dropped when nothing is answered on
them for twice that time. Errors are JSON: ``{"error": "..."}``. Needs numpy, pillow, onnxruntime, starlette
and uvicorn; not PyTorch.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import uvicorn
from PIL import Image, ImageOps
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol


class Limits(NamedTuple):
    """What is turned away."""

    bytes: int
    pixels: int
    waiting: int  # requests in the queue
    batch: int  # images run together
    seconds: float  # for a request, from its first to its last byte
    connections: int


class Network:
    """An ONNX file of ``interface=ids`` with its classes."""

    def __init__(self, path: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        stored = self.session.get_modelmeta().custom_metadata_map
        self.facts = {key: json.loads(text) for key, text in stored.items()}
        if self.facts.get("interface") != "ids":
            raise SystemExit(f"{path}: not a file that export_seg.py wrote with interface=ids")
        self.size = self.facts["image_size"]
        self.colors = np.array(self.facts["colors"], np.uint8)

    def run(self, images: list[np.ndarray]) -> np.ndarray:
        """Class ids (B, H, W) of images (H, W, 3) of one size."""
        batches = [np.stack(images)] if self.size is None else [image[None] for image in images]
        return np.concatenate([self.session.run(None, {"image": batch})[0] for batch in batches])


Waiting = tuple[np.ndarray, asyncio.Future[np.ndarray]]


class Queue:
    """Waiting images; one task takes them off in batches of one size and runs them beside the event loop."""

    def __init__(self, network: Network, limits: Limits) -> None:
        self.network, self.limits = network, limits
        self.waiting: asyncio.Queue[Waiting] = asyncio.Queue(limits.waiting)

    async def predict(self, image: np.ndarray) -> np.ndarray:
        """Class ids of one image, when its turn comes."""
        answer: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        try:
            self.waiting.put_nowait((image, answer))
        except asyncio.QueueFull:
            raise HTTPException(503, "too many images are waiting; try again later") from None
        return await answer

    async def work(self) -> None:
        """Run batches until cancelled."""
        ahead: Waiting | None = None
        while True:
            batch = [ahead or await self.waiting.get()]
            ahead = None
            while len(batch) < self.limits.batch and not self.waiting.empty():
                following = self.waiting.get_nowait()
                if following[0].shape != batch[0][0].shape:
                    ahead = following
                    break
                batch.append(following)
            await self.answer(
                [item for item in batch if not item[1].cancelled()]
            )  # gone clients cost nothing

    async def answer(self, batch: list[Waiting]) -> None:
        """Run one batch; an error is that of its requests, not of the service."""
        if not batch:
            return
        try:
            found = await asyncio.to_thread(self.network.run, [image for image, _ in batch])
            for (_, answer), ids in zip(batch, found, strict=True):
                if not answer.done():
                    answer.set_result(ids)
        except Exception as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(HTTPException(500, f"the network failed: {error}"))


async def body_of(request: Request, most: int) -> bytes:
    """The request's bytes, given up as soon as there are too many."""
    stored = bytearray()
    async for part in request.stream():
        stored += part
        if len(stored) > most:
            raise HTTPException(413, f"the body is larger than {most} bytes")
    return bytes(stored)


def decode(stored: bytes, network: Network, limits: Limits) -> np.ndarray:
    """Return the image (H, W, 3) uint8 RGB; one of too many pixels is refused by its header, undecoded."""
    if not stored:
        raise HTTPException(400, "the body is empty; it must be a PNG or JPEG file")
    try:
        with Image.open(io.BytesIO(stored), formats=["PNG", "JPEG"]) as image:
            if image.width * image.height > limits.pixels:
                raise HTTPException(413, f"{image.width}x{image.height} are more than {limits.pixels} pixels")
            is_plain = image.mode in ("1", "L", "P", "RGB") and "transparency" not in image.info
            is_plain = is_plain and ";16" not in str(image.tile)
            upright = ImageOps.exif_transpose(image)  # decodes it, to the last byte
            pixels = np.array(upright.convert("RGB"))
    except HTTPException:
        raise
    except Image.DecompressionBombError as error:
        raise HTTPException(413, str(error)) from None
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise HTTPException(400, f"not an image, or only part of one: {error}") from None
    if not is_plain:
        raise HTTPException(400, "not an 8-bit RGB or gray image without transparency")
    if network.size and list(pixels.shape[:2]) != network.size:
        raise HTTPException(422, f"the network takes images of {network.size[1]}x{network.size[0]} alone")
    return pixels


def encode(image: np.ndarray) -> bytes:
    """Return class ids (H, W) or colors (H, W, 3) as a PNG, ids beyond 255 with 16 bits."""
    stored = io.BytesIO()
    Image.fromarray(image if image.dtype == np.uint8 else image.astype(np.uint16)).save(
        stored, "PNG", compress_level=1
    )
    return stored.getvalue()


def application(network: Network, limits: Limits) -> Starlette:
    """The service."""
    queue = Queue(network, limits)

    @contextlib.asynccontextmanager
    async def working(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(queue.work())
        yield
        task.cancel()

    async def about(_: Request) -> Response:
        return JSONResponse({"names": network.facts["names"], "limits": limits._asdict()})

    async def predict(request: Request) -> Response:
        kind = request.query_params.get("as", "ids")
        if kind not in ("ids", "colors"):
            raise HTTPException(400, f"as={kind}: give ids or colors")
        try:
            async with asyncio.timeout(limits.seconds):
                stored = await body_of(request, limits.bytes)
                image = await asyncio.to_thread(decode, stored, network, limits)
                ids = await queue.predict(image)
                png = await asyncio.to_thread(encode, ids if kind == "ids" else network.colors[ids])
        except TimeoutError:
            raise HTTPException(408, f"the request took more than {limits.seconds:g} s") from None
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        return Response(png, media_type="image/png")

    async def refused(_: Request, error: Any) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code)

    routes = [Route("/", about), Route("/predict", predict, methods=["POST"])]
    return Starlette(routes=routes, lifespan=working, exception_handlers={HTTPException: refused})


def timed_protocol(limits: Limits) -> type[H11Protocol]:
    """Return the protocol of connections that are dropped when nothing is answered on them for long."""

    class Connection(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.timer = self.loop.call_later(2 * limits.seconds, transport.abort)
            if len(self.connections) > 2 * limits.connections:  # beyond those that are answered with 503
                transport.abort()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self.timer.cancel()
            self.timer = self.loop.call_later(2 * limits.seconds, self.transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            self.timer.cancel()
            super().connection_lost(exc)

    return Connection


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", help="an ONNX file")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=0, help="of the network; 0 takes all cores")
    parser.add_argument("--max-bytes", type=int, default=20 * 2**20)
    parser.add_argument("--max-pixels", type=int, default=8_000_000)
    parser.add_argument("--max-waiting", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--max-seconds", type=float, default=60, help="for a request")
    parser.add_argument("--max-connections", type=int, default=100)
    given = parser.parse_args()
    limits = Limits(
        given.max_bytes,
        given.max_pixels,
        given.max_waiting,
        given.batch,
        given.max_seconds,
        given.max_connections,
    )
    uvicorn.run(
        application(Network(given.network, given.threads), limits),
        host=given.host,
        port=given.port,
        http=timed_protocol(limits),
        ws="none",
        limit_concurrency=limits.connections + 1,
        log_level="error",
    )
