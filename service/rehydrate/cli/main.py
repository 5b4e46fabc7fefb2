"""The command line. Results go to standard output, logs and progress to standard error.

Exit codes: 0 done, 1 it did not work, 2 it was asked wrongly or something is not configured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from rehydrate.core.replay.requests import MODES, ReplayTerms
from rehydrate.errors import BadRequest, NotConfigured, RehydrateError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

_logger = logging.getLogger("rehydrate")

_EPILOG = """\
settings come from the environment; the ones that matter:
  REHYDRATE_DATABASE_URL   Postgres, as libpq takes it        (demo, --embedded: embedded)
  ABLY_API_KEY             appId.keyId:secret                 (demo, --embedded: a local server)
  REHYDRATE_SERVICE_KEYS   secrets of backends, comma-separated
  REHYDRATE_ADMIN_KEYS     secrets of admins
  REHYDRATE_RETENTION      how long channels keep history (2m)
  REHYDRATE_DATA_DIR       where embedded things live
all of them are in the README.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = _parser().parse_args(argv)
    _log(options)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # texts may hold what cannot be encoded
    try:
        code = int(options.run(options))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (NotConfigured, BadRequest) as error:
        return _complain(error, 2)
    except RehydrateError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return 130
    return code


def _log(options: Any) -> None:
    """Log to standard error: a server in JSON, a line a record; the rest as people read it."""
    level = logging.DEBUG if options.verbose else logging.INFO
    level = logging.WARNING if options.quiet else level
    logging.basicConfig(
        stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if options.run is _run_serve:
        from rehydrate.api.logs import log_to_stderr  # noqa: PLC0415 - only a server needs it

        log_to_stderr(level)
    for noisy in ("httpx", "httpcore", "alembic"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
    if not options.verbose:  # it logs, with tracebacks, what it also raises or reports by its state
        logging.getLogger("ably").setLevel(logging.CRITICAL)


def _complain(error: RehydrateError, code: int) -> int:
    sys.stderr.write(f"rehydrate: {error}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rehydrate",
        description="History hydration and replay for AI conversations that stream over Ably.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="log more (never message text)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="log warnings only")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_serving(commands)
    _add_reading(commands)
    agent = commands.add_parser("agent")  # of the demo, which starts it; not listed
    agent.add_argument("conversation")
    agent.add_argument("--seconds", type=float)
    agent.set_defaults(run=_run_agent)
    example = commands.add_parser("example")  # likewise
    example.add_argument("name")
    example.add_argument("argv", nargs="*")
    example.set_defaults(run=_run_example)
    return parser


def _add(commands: Any, name: str, text: str, run: Callable[[Any], int]) -> Any:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=run)
    return command


def _add_demo(commands: Any) -> None:
    demo = _add(
        commands, "demo", "everything on embedded defaults, with an agent that streams", _run_demo
    )
    demo.add_argument(
        "--check",
        action="store_true",
        help="join at random moments, compare every character, say what was lost or doubled",
    )
    demo.add_argument("--joins", type=int, default=50, help="joins of the check (50)")
    demo.add_argument("--json", action="store_true", help="the check's result as JSON, last line")


def _add_serving(commands: Any) -> None:
    serve = _add(commands, "serve", "the service", _run_serve)
    serve.add_argument(
        "--embedded", action="store_true", help="start what is not configured: Postgres, channels"
    )
    serve.add_argument("--host", help="address to listen on (REHYDRATE_HOST, 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port; 0 takes a free one (REHYDRATE_PORT, 8000)")
    _add(commands, "migrate", "bring the database's schema to head", _run_migrate)
    local = _add(
        commands,
        "local-ably",
        "the local channel server alone: speaks Ably's protocol, for development",
        _run_local_ably,
    )
    local.add_argument("--port", default="8081", help="port on 127.0.0.1; 0 takes a free one")
    local.add_argument("--key", help="an API key, appId.keyId:secret (made up without one)")
    local.add_argument("--data-dir", help="keep persisted channels in this folder")
    local.add_argument("--retention", help="seconds of history without persistence (120)")
    local.add_argument("--config", help="apps, keys, namespaces and webhook rules, as TOML")


def _add_reading(commands: Any) -> None:
    hydrate = _add(commands, "hydrate", "print a hydrated conversation", _run_hydrate)
    hydrate.add_argument("conversation")
    hydrate.add_argument("--until", help="reach at least this serial (an attach point)")
    hydrate.add_argument("--limit", type=int, default=50, help="newest messages (50)")
    hydrate.add_argument("--json", action="store_true", help="the answer as JSON")
    follow = _add(
        commands, "follow", "print a conversation, then what is said, as it is said", _run_follow
    )
    follow.add_argument("conversation")
    follow.add_argument("--limit", type=int, default=50, help="newest messages first (50)")
    follow.add_argument("--json", action="store_true", help="every event as a line of JSON")
    _add_replay(commands)
    erase = _add(commands, "erase", "erase what was said in a conversation, for good", _run_erase)
    erase.add_argument("conversation")
    verify = _add(
        commands, "verify", "compare what is stored with what the channel shows", _run_verify
    )
    verify.add_argument("conversation")
    verify.add_argument("--mend", action="store_true", help="mend, from the side that is right")
    _add(commands, "doctor", "what is configured, reachable, at head, and how to mend", _run_doctor)


def _add_replay(commands: Any) -> None:
    replay = _add(
        commands, "replay", "publish a stored response again; Ctrl-C cancels it", _run_replay
    )
    replay.add_argument("conversation")
    replay.add_argument("response")
    replay.add_argument(
        "--mode",
        choices=MODES,
        default="stream",
        help="stream: as it was said; repair: as the text that readers have then (stream)",
    )
    replay.add_argument(
        "--speed", type=float, default=1.0, help="times its pace; 0: as fast as allowed (1)"
    )
    replay.add_argument("--channel", help="where (the conversation's own)")
    replay.add_argument("--from-seq", type=int, default=0, help="nothing before that seq (0)")
    replay.add_argument(
        "--max-rate", type=float, default=0.0, help="channel messages a second (25, or the usual)"
    )
    replay.add_argument("--dry-run", action="store_true", help="only tell the schedule")
    replay.add_argument("--json", action="store_true", help="the outcome as JSON, last line")


def _run(main: Coroutine[Any, Any, int]) -> int:
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - optional

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    return asyncio.run(main)


def _run_demo(options: Any) -> int:
    from rehydrate.demo.command import run_demo  # noqa: PLC0415 - only this command needs it

    check = {"joins": options.joins, "as_json": options.json} if options.check else None
    return _run(run_demo(check))


def _run_serve(options: Any) -> int:
    from rehydrate.cli.serve import serve  # noqa: PLC0415 - as above
    from rehydrate.demo.services import embedded  # noqa: PLC0415 - as above
    from rehydrate.settings import load_settings  # noqa: PLC0415 - as above

    given = {"host": options.host, "port": options.port}
    settings = load_settings(**{key: value for key, value in given.items() if value is not None})

    async def run() -> int:
        if not options.embedded:
            return await serve(settings)
        async with embedded(settings) as completed:
            _logger.info("what is embedded keeps its data below %s", settings.data_dir)
            return await serve(completed)

    return _run(run())


def _run_migrate(_: Any) -> int:
    from rehydrate.history import migrate  # noqa: PLC0415 - as above
    from rehydrate.settings import load_settings  # noqa: PLC0415 - as above

    asyncio.run(migrate(load_settings().required_database_url()))
    sys.stdout.write("the schema is at head\n")
    return 0


def _run_local_ably(options: Any) -> int:
    from localably.__main__ import main as local_ably  # noqa: PLC0415 - as above

    given = {
        "--port": options.port,
        "--key": options.key or os.environ.get("REHYDRATE_LOCAL_ABLY_KEY"),
        "--data-dir": options.data_dir,
        "--retention": options.retention,
        "--config": options.config,
    }
    argv = [word for option, value in given.items() if value for word in (option, value)]
    return local_ably(argv, prog="rehydrate local-ably")


def _run_hydrate(options: Any) -> int:
    from rehydrate.history import History  # noqa: PLC0415 - as above

    async def run() -> int:
        async with History() as history:
            hydrated = await history.hydrate(
                options.conversation, until=options.until, limit=options.limit
            )
        if options.json:
            sys.stdout.write(hydrated.body.decode() + "\n")
        else:
            sys.stdout.write(_readable(json.loads(hydrated.body)))
        return 0

    return _run(run())


def _readable(answer: dict[str, Any]) -> str:
    lines = []
    for message in answer["messages"]:
        state = "" if message["status"] == "completed" else f"  [{message['status']}]"
        gaps = f"  missing {message['gaps']}" if message["gaps"] else ""
        lines.append(f"{message['role']} {message['id']}{state}{gaps}\n{message['text']}\n")
    if not answer["complete"]:
        lines += [f"not complete: {reason['detail']}" for reason in answer["reasons"]]
    return "\n".join(lines) + "\n"


def _run_follow(options: Any) -> int:
    from rehydrate.cli.terminal import follow  # noqa: PLC0415 - as above

    return _run(follow(options.conversation, limit=options.limit, as_json=options.json))


def _run_replay(options: Any) -> int:
    from rehydrate.cli.progress import replay  # noqa: PLC0415 - as above

    terms = ReplayTerms(
        options.mode, options.speed, options.channel, options.from_seq, options.max_rate
    )
    told = {"dry_run": options.dry_run, "as_json": options.json, "quiet": options.quiet}
    return _run(replay(options.conversation, options.response, terms, **told))


def _run_erase(options: Any) -> int:
    from rehydrate.history import History  # noqa: PLC0415 - as above

    async def run() -> int:
        async with History() as history:
            await history.erase(options.conversation)
        sys.stdout.write("erased\n")
        return 0

    return _run(run())


def _run_verify(options: Any) -> int:
    from rehydrate.history import History  # noqa: PLC0415 - as above

    async def run() -> int:
        async with History() as history:
            found = await history.verify(options.conversation, mend=options.mend)
        for each in found.findings:
            mended = "mended: " if each.mended else ""
            sys.stdout.write(
                f"{mended}{each.message_id}: fault of the {each.fault}: {each.detail}\n"
            )
        counted = f"{found.compared} of {found.messages} messages on the channel compared whole"
        sys.stdout.write(f"{counted}, {len(found.findings)} differ\n")
        return int(any(not each.mended for each in found.findings))

    return _run(run())


def _run_doctor(_: Any) -> int:
    from rehydrate.cli.doctor import examine  # noqa: PLC0415 - as above

    return _run(examine())


def _run_agent(options: Any) -> int:
    from rehydrate.demo.agent import run_agent  # noqa: PLC0415 - as above

    return _run(run_agent(options.conversation, options.seconds))


def _run_example(options: Any) -> int:
    from rehydrate.demo.examples import run_example  # noqa: PLC0415 - as above

    return run_example(options.name, options.argv)


if __name__ == "__main__":
    sys.exit(main())
