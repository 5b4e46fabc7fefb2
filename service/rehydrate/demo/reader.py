"""A reader with stock ably-python, as shown in the README and run by the check and the tests."""

# mypy: ignore-errors
# (untyped, as the README shows it)

from __future__ import annotations

# --8<-- [start:join]
import asyncio
import random

from rehydrate import View


async def join(ably, name, load, render, way=1):
    """Show conversation *name* by ``render(view)``, now and live, until cancelled.

    ``await load(until=None)`` fetches ``GET /v1/conversations/{id}``. Way 1: attach first; 2: attach
    first and hydrate until the attach point; 3: hydrate first and rewind to the answer.
    """
    attempt = 0
    while True:
        await asyncio.sleep(
            min(5, attempt and 0.1 * 2 ** min(attempt, 6)) * random.uniform(0.5, 1.5)
        )
        answer = await load() if way == 3 else {}
        rewind = answer.get("rewind_from") or "10s"
        live = asyncio.Queue()
        channel = ably.channels.get(name, params={"rewind": rewind})
        channel.on("update", lambda change, live=live: change.resumed or live.put_nowait(None))
        await asyncio.gather(  # all before the attach: its backlog, or a gap, arrives at once
            channel.subscribe(live.put_nowait),  # not a coroutine function: those lose the order
            channel.subscribe(
                "error", lambda message: None
            ),  # otherwise pyee raises such a message
        )
        channel.on("attached", lambda change, live=live: change.resumed or live.put_nowait(None))
        if rewind == "10s":
            serial = channel._RealtimeChannel__attach_serial if way == 2 else None
            answer = await load(until=serial)
        else:
            await asyncio.sleep(0.25)  # the backlog arrives at once
        backlog = [live.get_nowait() for _ in range(live.qsize())]
        first = backlog[0].version.serial if backlog and backlog[0] else None
        cut = rewind != "10s" and not (
            first and first <= answer["until"]
        )  # no overlap with the answer
        view = View(answer)
        render(view)
        while not (view.stale or cut):
            message = backlog.pop(0) if backlog else await live.get()
            if message is None or not view.apply(message):
                break
            if not backlog:  # the whole backlog applied: the join succeeded
                attempt = 0
                if live.empty():
                    render(view)
        await channel.detach()  # then retry, with an attach that rewinds
        ably.channels.release(name)
        way, attempt = 1, attempt + 1


# --8<-- [end:join]
