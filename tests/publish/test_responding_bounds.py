"""Invalid or oversized input: refused by the call, and the response continues."""

from __future__ import annotations

import pytest

from rehydrate.core.text import content
from rehydrate.errors import BadParameter, TooLarge


class TestBadInput:
    @pytest.mark.parametrize("rid", ["", "a\n", "x" * 257, "\ud83d"])
    async def test_an_invalid_response_id_names_its_parameter(self, chat, rid):
        with pytest.raises(BadParameter) as caught:
            async with chat.respond(rid):
                pass
        assert caught.value.parameter == "response_id"
        assert await chat.row() is None

    @pytest.mark.parametrize(
        ("call", "parameter"),
        [
            (lambda response: response.tool_result("c", object()), "result"),
            (lambda response: response.tool_call("c", "f", {"x": float("nan")}), "args"),
            (lambda response: response.finish(usage={1: 2}), "usage"),
            (lambda response: response.finish(error=b"x"), "error"),
            (lambda response: response.finish(error={"n": 2**64}), "error"),
            (lambda response: response.finish(parts=[{"type": "image"}]), "parts"),
            (lambda response: response.finish(parts="text"), "parts"),
            (lambda response: response.finish("in_progress"), "status"),
            (lambda response: response.write(5), "text"),
            (lambda response: response.write(b"x"), "text"),
            (lambda response: response.write("x", part="p" * 257), "part"),
            (lambda response: response.reason("x", part=7), "part"),
            (lambda response: response.tool_args("c" * 257, "{}"), "tool_call_id"),
            (lambda response: response.tool_call(None, "f"), "tool_call_id"),
            (lambda response: response.tool_call("c", "f" * 257), "name"),
        ],
    )
    async def test_invalid_input_is_refused_by_the_call(self, chat, call, parameter):
        async with chat.respond("r") as response:
            response.write("a")
            with pytest.raises(BadParameter) as caught:
                call(response)
            response.write("b")
        assert caught.value.parameter == parameter
        assert await chat.stored() == {"r": ("ab", "completed")}

    async def test_invalid_metadata_is_refused_at_once(self, chat):
        with pytest.raises(BadParameter) as caught:
            async with chat.respond("r", metadata={"a": object()}):
                pass
        assert caught.value.parameter == "metadata"
        assert await chat.row() is None


class TestTooMuch:
    """Input beyond the limits of a response is refused by the call; earlier text stays."""

    @pytest.mark.parametrize(
        "call",
        [
            lambda response: response.write("x" * (content.MAX_CHARACTERS + 1)),
            lambda response: response.tool_call("c", "f", {"x": "語" * (content.VALUE_BYTES // 3)}),
            lambda response: response.tool_result("c", "y" * content.VALUE_BYTES),
            lambda response: response.finish(usage=["x" * content.END_BYTES]),
            lambda response: response.finish(error="x" * content.END_BYTES),
            lambda response: response.finish(
                parts=[{"type": "text", "text": "x" * (content.MAX_CHARACTERS + 1)}]
            ),
        ],
    )
    async def test_oversized_input_is_refused_and_not_published(self, chat, call):
        async with chat.respond("r") as response:
            response.write("a")
            with pytest.raises(TooLarge):
                call(response)
            response.write("b")
        assert await chat.stored() == {"r": ("ab", "completed")}
        assert await chat.shown() == {"r": ("ab", "completed")}

    async def test_input_at_the_limits_is_published_and_stored(self, chat):
        long = "語" * ((content.VALUE_BYTES - 2) // 3)
        async with chat.respond("r", metadata="m" * 60_000) as response:
            response.tool_call("c" * 256, "f" * 256, long)
            response.tool_result("c" * 256, long)
            response.tool_call("n", "f", {"n": 2**1000})
            response.write("a", part="語" * 256)
            response.finish("failed", usage=["u" * 15_000, 2**1000], error="e" * 15_000)
        assert [name for name, *_ in await chat.channel_events()][-1] == "stop"
        lease = await chat.lease("r")
        assert lease.stop_acked
        message = await chat.message()
        assert (message["status"], message["text"], len(message["error"])) == (
            "failed",
            "a",
            15_000,
        )
        assert (await chat.catch_up()).counts["folded"] == 0

    async def test_ten_mebibytes_are_accepted_and_not_a_character_more(self, chat):
        piece = "x" * 1_048_576
        async with chat.respond("r") as response:
            for _ in range(10):
                response.write(piece)
            with pytest.raises(TooLarge):
                response.write("y")
        assert (await chat.shown())["r"] == (piece * 10, "completed")
        assert (await chat.catch_up()).counts["folded"] == 0

    async def test_a_million_tokens_are_too_many(self, chat, monkeypatch):
        monkeypatch.setattr(content, "MAX_EVENTS", 50)
        with pytest.raises(TooLarge, match="50 events"):  # noqa: PT012 - at whichever write exceeds it
            async with chat.respond("r") as response:
                for number in range(100):
                    response.write(f"{number} ")
                    response.reason("hm")
        text, status = (await chat.shown())["r"]
        assert (status, text.split()[:3]) == ("failed", ["0", "1", "2"])
        assert (await chat.stored())["r"][1] == "failed"

    async def test_oversized_metadata_is_refused_at_once(self, chat):
        with pytest.raises(TooLarge):
            async with chat.respond("r", metadata="x" * 64_000):
                pass
        assert await chat.row() is None
