"""A small HTTP service around an exported network: images in, masks out.

    python export_seg.py checkpoint=runs/NAME/best.pt output=net.onnx
    python examples/serve.py net.onnx --port 8000
    curl -X POST --data-binary @photo.jpg "http://127.0.0.1:8000/predict" > ids.png
    curl -X POST --data-binary @photo.jpg "http://127.0.0.1:8000/predict?as=colours" > colours.png

``GET /`` names the classes and limits. Requests wait in one queue; those of one size that wait together are
run as one batch. When the queue is full a request is turned away at once with 503, so that nobody waits for
long. Errors are JSON: ``{"error": "..."}``. Needs numpy, OpenCV, pillow, onnxruntime, starlette and uvicorn;
not PyTorch.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import cv2
import numpy as np
import onnxruntime
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


class Limits(NamedTuple):
    """What is turned away."""

    bytes: int
    pixels: int
    waiting: int  # requests in the queue
    batch: int  # images run together


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
        self.colours = np.array(self.facts["colours"], np.uint8)

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
        except Exception as error:
            for _, answer in batch:
                if not answer.cancelled():
                    answer.set_exception(HTTPException(500, f"the network failed: {error}"))
            return
        for (_, answer), ids in zip(batch, found, strict=True):
            if not answer.cancelled():
                answer.set_result(ids)


async def body_of(request: Request, most: int) -> bytes:
    """The request's bytes, given up as soon as there are too many."""
    stored = bytearray()
    async for part in request.stream():
        stored += part
        if len(stored) > most:
            raise HTTPException(413, f"the body is larger than {most} bytes")
    return bytes(stored)


def decoded(stored: bytes, network: Network, limits: Limits) -> np.ndarray:
    """The image (H, W, 3) uint8 RGB; one of too many pixels is refused by its header, undecoded."""
    if not stored:
        raise HTTPException(400, "the body is empty; it must be a PNG or JPEG file")
    try:
        with Image.open(io.BytesIO(stored)) as header:
            width, height = header.size
    except (OSError, Image.DecompressionBombError) as error:
        raise HTTPException(400, f"not an image: {error}") from None
    if height * width > limits.pixels:
        raise HTTPException(413, f"{width}x{height} are more than {limits.pixels} pixels")
    pixels = cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise HTTPException(400, "not an image, or only part of one")
    if network.size and list(pixels.shape[:2]) != network.size:
        raise HTTPException(422, f"the network takes images of {network.size[1]}x{network.size[0]} alone")
    return pixels


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
        if kind not in ("ids", "colours"):
            raise HTTPException(400, f"as={kind}: give ids or colours")
        stored = await body_of(request, limits.bytes)
        image = await asyncio.to_thread(decoded, stored, network, limits)
        ids = await queue.predict(image)
        image = ids if kind == "ids" else network.colours[ids][..., ::-1]
        _, png = await asyncio.to_thread(cv2.imencode, ".png", image)
        return Response(png.tobytes(), media_type="image/png")

    async def refused(_: Request, error: Any) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code)

    routes = [Route("/", about), Route("/predict", predict, methods=["POST"])]
    return Starlette(routes=routes, lifespan=working, exception_handlers={HTTPException: refused})


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
    given = parser.parse_args()
    limits = Limits(given.max_bytes, given.max_pixels, given.max_waiting, given.batch)
    uvicorn.run(
        application(Network(given.network, given.threads), limits),
        host=given.host,
        port=given.port,
        log_level="warning",
    )
