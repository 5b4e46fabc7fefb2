"""The scripted model: the same prompt always gets the same answer.

A prompt about the weather or the time in a place makes it call the tools `get_weather` and
`get_time` (both at once, if the prompt mentions both) and answer with their results. It refuses
prompts that contain the word "forbidden".
"""

from __future__ import annotations

import json
import random
import re
import zlib
from typing import Any

from scripted_openai.endpoint import Frames, StreamRequest
from scripted_openai.turns import ResponseTurn, RunTurn

REFUSAL = "I would rather not talk about that."

_SENTENCES = (
    "Streams break where few people look: between two tokens, while a tab reloads.",
    "A reader who joins late should see exactly what the others saw.",
    "An answer is a log before it is a text 📜.",
    "Ordering is cheap when every event carries its number.",
    "A café in Zürich, 東京の夜, and a naïve coroutine walk into a channel.",
    "What was sent once must be shown once: neither twice nor never.",
    "The database is patient and late; the channel is quick and forgetful.",
    "Between them lies a seam, and the seam is where the work is.",
    "If a publisher dies in mid-sentence, its sentence still has to end.",
    "A reader who refreshes is a reader who trusts you.",
    "Nothing is lost by saying clearly what is missing.",
    "Good tools are boring in the way that good bridges are boring.",
)
_TOOLS = {"weather": ("get_weather", "city"), "time": ("get_time", "city")}
_PLACE = re.compile(r"\b[Ii]n ([A-Z]\w+)")


def answer_text(prompt: str, outputs: tuple[str, ...] = ()) -> str:
    """Return the whole answer to *prompt*, given the *outputs* of the tools."""
    chance = random.Random(zlib.crc32(prompt.encode()))
    sentences = chance.sample(_SENTENCES, 6 + chance.randrange(4))
    found = f"This is what I found: {'; '.join(outputs)}.\n\n" if outputs else ""
    half = len(sentences) // 2
    paragraphs = " ".join(sentences[:half]), " ".join(sentences[half:])
    return f"You asked: “{prompt}”\n\n{found}{paragraphs[0]}\n\n{paragraphs[1]}"


def calls(prompt: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the tool calls (name, arguments) that *prompt* triggers."""
    place = _PLACE.search(prompt)
    city = place[1] if place else "Paris"
    return [(name, {key: city}) for word, (name, key) in _TOOLS.items() if word in prompt.lower()]


def answer(asked: StreamRequest) -> Frames:
    """Return the events of an answer, or of its next turn."""
    if asked.kind == "response":
        return _response(asked)
    turn = RunTurn(asked.thread_id, asked.run_id, new_thread=asked.thread_is_new)
    return _run(asked, turn)


def _response(asked: StreamRequest) -> Frames:
    turn = ResponseTurn(f"resp_{asked.number + 1}")
    given = asked.body["input"]
    outputs = [item["output"] for item in given if isinstance(item, dict) and "output" in item]
    prompt = asked.prompt or asked.earlier_prompt
    wanted = [] if outputs else [call for call in calls(prompt) if call[0] in asked.tool_names]
    if "forbidden" in prompt:
        return turn.refusal(REFUSAL).completed()
    if wanted:
        turn.reasoning("I should look that up before I answer.")
        named = ((f"call_{asked.number}_{n}", *call) for n, call in enumerate(wanted))
        return turn.calls(*named).completed()
    return turn.message(answer_text(prompt, tuple(outputs))).completed(tokens=120)


def _run(asked: StreamRequest, turn: RunTurn) -> Frames:
    step_id = f"step_{asked.run_id}"
    wanted = [call for call in calls(asked.prompt) if call[0] in asked.tool_names]
    named = [(f"call_{asked.run_id}_{n}", *call) for n, call in enumerate(wanted)]
    if asked.kind == "run":
        turn.run("created").run("in_progress")
        if named:
            return turn.calls(step_id, *named)
        return turn.message(answer_text(asked.prompt), f"msg_{asked.run_id}").completed(tokens=120)
    given = {each["tool_call_id"]: each["output"] for each in asked.body["tool_outputs"]}
    prompt = asked.earlier_prompt
    named = [(f"call_{asked.run_id}_{n}", *call) for n, call in enumerate(calls(prompt))]
    called = [(*call, given[call[0]]) for call in named if call[0] in given]
    turn.run("in_progress").answered(step_id, *called).run("in_progress")
    outputs = tuple(output for *_, output in called)
    return turn.message(answer_text(prompt, outputs), f"msg_{asked.run_id}").completed(tokens=120)


def output_text(value: Any) -> str:
    """Return a tool's output as the model receives it: text unchanged, other values as JSON."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
