"""Two tools that the model may call; their signatures and docstrings describe them to the model."""

from __future__ import annotations

import asyncio
import zlib
from datetime import UTC, datetime, timedelta

_SKIES = ("clear", "cloudy", "rainy", "foggy", "windy")


async def get_weather(city: str) -> dict[str, object]:
    """The weather in a city, now."""
    await asyncio.sleep(0.6)  # simulates a remote call; call your own service here
    known = zlib.crc32(city.encode())
    return {"city": city, "sky": _SKIES[known % len(_SKIES)], "celsius": known % 35}


async def get_time(city: str) -> str:
    """The time of day in a city, now."""
    await asyncio.sleep(0.3)  # simulates a remote call
    hours = zlib.crc32(city.encode()) % 24 - 12
    return f"{datetime.now(UTC) + timedelta(hours=hours):%H:%M} in {city}"


TOOLS = {"get_weather": get_weather, "get_time": get_time}
