"""Start the repository's examples for the demo: the chat, and a scripted model if no key is set."""

from __future__ import annotations

import os
import runpy
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from rehydrate.demo.processes import Child
from rehydrate.errors import NotConfigured

EXAMPLES = Path(__file__).parent.parents[2] / "examples"
"""The examples are part of the repository, but not of the wheel."""

_NO_EXAMPLES = """\
No example chat: the examples are in the repository, not in the installed package.
"""
_NO_CLIENT = """\
No example chat: it needs the OpenAI client (pip install 'rehydrate[openai]').
"""
_CHAT = """\
A chat with {model} is on {url}
(with CHAT_API=assistants, the Assistants API answers on the same page).

Publish and subscribe from other terminals, any number of each:

{variables}
  {python} {folder}/subscriber.py
  {python} {folder}/publisher.py "Why do streams break?"

"""
_SHARED = (
    "REHYDRATE_DATABASE_URL",
    "ABLY_API_KEY",
    "ABLY_ENDPOINT",
    "ABLY_PORT",
    "ABLY_TLS",
    "OPENAI_BASE_URL",
)


class Chat(NamedTuple):
    """The chat's processes, and the text that introduces it."""

    children: list[Child]
    tour: str


async def started_chat(stack: AsyncExitStack, environment: Mapping[str, str]) -> Chat:
    """Start the chat, and a scripted model unless OPENAI_API_KEY is set; *stack* ends both.

    Raises:
        NotStarted: a process did not become ready.
    """
    if not (EXAMPLES / "chat_backend").is_dir():
        return Chat([], _NO_EXAMPLES)
    if find_spec("openai") is None:
        return Chat([], _NO_CLIENT)
    shared = {key: value for key, value in environment.items() if key in _SHARED}
    children = []
    if not os.environ.get("OPENAI_API_KEY"):
        model = await stack.enter_async_context(
            Child("--quiet", "example", "scripted_openai", "--", "--port", "0")
        )
        shared |= {"OPENAI_API_KEY": "scripted", "OPENAI_BASE_URL": f"{model.url}/v1"}
        children.append(model)
    port = os.environ.get("CHAT_PORT", "0")
    argv = ("--quiet", "example", "chat_backend")
    chat = Child(*argv, environment=shared | {"CHAT_PORT": port})
    children.append(await stack.enter_async_context(chat))
    made = {key: shared[key] for key in _SHARED if key in shared and not os.environ.get(key)}
    if len(children) > 1:
        made["OPENAI_API_KEY"] = "scripted"
    tour = _CHAT.format(
        model="a scripted model" if len(children) > 1 else "an OpenAI model",
        url=chat.url,
        variables="".join(f"  export {key}={shlex.quote(value)}\n" for key, value in made.items()),
        python=shlex.quote(sys.executable),
        folder=EXAMPLES,
    )
    return Chat(children, tour)


def run_example(name: str, argv: Sequence[str]) -> int:
    """Run one of the examples as a program; return its exit code.

    Raises:
        NotConfigured: there is no example called *name*.
    """
    if not (EXAMPLES / name / "__main__.py").is_file():
        raise NotConfigured(
            f"no example {name!r} found: the examples are in the repository, not in the package"
        )
    sys.path.insert(0, str(EXAMPLES))
    sys.argv = [name, *argv]
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0
