"""The baseline ("floor"): the same bytes with the raw driver and a bare route. An ASGI app for uvicorn."""

from __future__ import annotations

import contextlib
import os

import asyncpg
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

BODIES = "select body from bench_bodies order by id"
TEXTS = "select body from bench_texts order by id"


@contextlib.asynccontextmanager
async def lifespan(app):
    async with asyncpg.create_pool(
        os.environ["REHYDRATE_DATABASE_URL"], min_size=1, max_size=4
    ) as pool:
        app.state.pool = pool
        yield


async def answer(request):
    async with request.app.state.pool.acquire() as connection:
        bodies = await connection.fetch(BODIES)
        texts = await connection.fetch(TEXTS)
    rows = b",".join([row["body"] for row in (*bodies, *texts)])
    return Response(b'{"messages":[%b]}' % rows, media_type="application/json")


app = Starlette(routes=[Route("/answer", answer)], lifespan=lifespan)
