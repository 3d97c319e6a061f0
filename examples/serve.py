"""HTTP service for an exported network: images in, masks out.

    python export_seg.py checkpoint=runs/NAME/best.pt output=net.onnx
    python examples/serve.py net.onnx --port 8000
    curl -X POST --data-binary @photo.jpg "http://127.0.0.1:8000/predict" > ids.png
    curl -X POST --data-binary @photo.jpg "http://127.0.0.1:8000/predict?as=colors" > colors.png

``GET /`` returns the classes and limits. Masks are 16-bit PNG files if there are more than 256 classes.
Requests wait in one queue and are batched with others of the same size. The answer is 503 if the queue is
full and 408 if a request takes too long. Connections are limited, and closed after twice that time without an
answer. Errors are JSON: ``{"error": "..."}``. Needs numpy, pillow, onnxruntime, starlette and uvicorn; not
PyTorch.
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
    """Limits; requests beyond them are rejected."""

    bytes: int = 20 * 2**20
    pixels: int = 8_000_000
    waiting: int = 32  # requests in the queue
    batch: int = 4  # images run together
    seconds: float = 60.0  # for a request, from its first to its last byte
    connections: int = 100


class Network:
    """An ONNX file of ``interface=ids`` with its classes."""

    def __init__(self, path: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        stored = self.session.get_modelmeta().custom_metadata_map
        self.metadata = {key: json.loads(text) for key, text in stored.items()}
        if self.metadata.get("interface") != "ids":
            raise SystemExit(f"{path}: not written by export_seg.py with interface=ids")
        self.size = self.metadata["image_size"]
        self.colors = np.array(self.metadata["colors"], np.uint8)

    def run(self, images: list[np.ndarray]) -> np.ndarray:
        """Return class ids (B, H, W) of images (H, W, 3) of one size."""
        batches = [image[None] for image in images] if self.size else [np.stack(images)]
        return np.concatenate([self.session.run(None, {"image": batch})[0] for batch in batches])


PendingImage = tuple[np.ndarray, asyncio.Future[np.ndarray]]


class Queue:
    """Queue of images; one task runs them in batches of one size, outside of the event loop."""

    def __init__(self, network: Network, limits: Limits) -> None:
        self.network, self.limits = network, limits
        self.pending: asyncio.Queue[PendingImage] = asyncio.Queue(limits.waiting)

    async def predict(self, image: np.ndarray) -> np.ndarray:
        """Return the class ids of one image."""
        result: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        try:
            self.pending.put_nowait((image, result))
        except asyncio.QueueFull:
            raise HTTPException(503, "too many images are waiting; try again later") from None
        return await result

    async def work(self) -> None:
        """Run batches until cancelled."""
        ahead: PendingImage | None = None
        while True:
            batch = [ahead or await self.pending.get()]
            ahead = None
            while len(batch) < self.limits.batch and not self.pending.empty():
                next_item = self.pending.get_nowait()
                if next_item[0].shape != batch[0][0].shape:
                    ahead = next_item
                    break
                batch.append(next_item)
            await self.run_batch([item for item in batch if not item[1].cancelled()])

    async def run_batch(self, batch: list[PendingImage]) -> None:
        """Run one batch; an error is reported to its requests."""
        if not batch:
            return
        try:
            batch_ids = await asyncio.to_thread(self.network.run, [image for image, _ in batch])
            for (_, result), ids in zip(batch, batch_ids, strict=True):
                if not result.done():
                    result.set_result(ids)
        except Exception as error:
            for _, result in batch:
                if not result.done():
                    result.set_exception(HTTPException(500, f"the network failed: {error}"))


async def read_body(request: Request, most: int) -> bytes:
    """Return the body of a request; rejected as soon as it has more than ``most`` bytes."""
    stored = bytearray()
    async for part in request.stream():
        stored += part
        if len(stored) > most:
            raise HTTPException(413, f"the body is larger than {most} bytes")
    return bytes(stored)


def decode(stored: bytes, network: Network, limits: Limits) -> np.ndarray:
    """Return the image (H, W, 3) uint8 RGB; the number of pixels is checked before decoding."""
    if not stored:
        raise HTTPException(400, "the body is empty; it must be a PNG or JPEG file")
    try:
        with Image.open(io.BytesIO(stored), formats=["PNG", "JPEG"]) as image:
            if image.width * image.height > limits.pixels:
                raise HTTPException(413, f"{image.width}x{image.height} are more than {limits.pixels} pixels")
            is_plain = image.mode in ("1", "L", "P", "RGB") and "transparency" not in image.info
            is_plain = is_plain and ";16" not in str(image.tile)
            upright = ImageOps.exif_transpose(image)  # decodes the complete file
            pixels = np.array(upright.convert("RGB"))
    except HTTPException:
        raise
    except Image.DecompressionBombError as error:
        raise HTTPException(413, str(error)) from None
    except Exception as error:  # damaged files raise anything in Pillow
        raise HTTPException(400, f"not an image, or only part of one: {error}") from None
    if not is_plain:
        raise HTTPException(400, "not an 8-bit RGB or gray image without transparency")
    if network.size and list(pixels.shape[:2]) != network.size:
        raise HTTPException(422, f"the network takes images of {network.size[1]}x{network.size[0]} only")
    return pixels


def encode(image: np.ndarray) -> bytes:
    """Return class ids (H, W) or colors (H, W, 3) as a PNG, with 16 bits if the ids need them."""
    stored = io.BytesIO()
    if image.dtype != np.uint8:
        image = image.astype(np.uint16)
    Image.fromarray(image).save(stored, "PNG", compress_level=1)
    return stored.getvalue()


def make_app(network: Network, limits: Limits) -> Starlette:
    """Return the service."""
    queue = Queue(network, limits)

    @contextlib.asynccontextmanager
    async def run_queue(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(queue.work())
        yield
        task.cancel()

    async def describe(_: Request) -> Response:
        return JSONResponse({"names": network.metadata["names"], "limits": limits._asdict()})

    async def predict(request: Request) -> Response:
        kind = request.query_params.get("as", "ids")
        if kind not in ("ids", "colors"):
            raise HTTPException(400, f"as={kind}: give ids or colors")
        try:
            async with asyncio.timeout(limits.seconds):
                stored = await read_body(request, limits.bytes)
                image = await asyncio.to_thread(decode, stored, network, limits)
                ids = await queue.predict(image)
                png = await asyncio.to_thread(encode, ids if kind == "ids" else network.colors[ids])
        except TimeoutError:
            raise HTTPException(408, f"the request took more than {limits.seconds:g} s") from None
        except ClientDisconnect:
            return Response(status_code=400)  # the client is gone
        return Response(png, media_type="image/png")

    async def write_error(_: Request, error: Any) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code)

    routes = [Route("/", describe), Route("/predict", predict, methods=["POST"])]
    return Starlette(routes=routes, lifespan=run_queue, exception_handlers={HTTPException: write_error})


def make_timed_protocol(limits: Limits) -> type[H11Protocol]:
    """Return a connection protocol that closes connections after a time without an answer."""

    class Connection(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.timer = self.loop.call_later(2 * limits.seconds, transport.abort)
            if len(self.connections) > 2 * limits.connections:  # beyond those that get a 503
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
    parser.add_argument("--threads", type=int, default=0, help="of the network; 0: all cores")
    for name, default in Limits()._asdict().items():
        parser.add_argument(f"--max-{name}", type=type(default), default=default)
    args = parser.parse_args()
    limits = Limits(*(getattr(args, f"max_{name}") for name in Limits._fields))
    uvicorn.run(
        make_app(Network(args.network, args.threads), limits),
        host=args.host,
        port=args.port,
        http=make_timed_protocol(limits),
        ws="none",
        limit_concurrency=limits.connections + 1,
        log_level="error",
    )
