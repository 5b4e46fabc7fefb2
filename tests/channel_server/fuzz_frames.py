"""Coverage-guided fuzzing of the decoder and the state machine, by hand: needs `atheris`.

    python tests/channel_server/fuzz_frames.py tests/localably/corpus -max_total_time=600

The first byte of an input chooses the format; the rest are frames, each after its length in two bytes.
What it finds worth keeping goes into the corpus, which `test_corpus.py` runs on every test run.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE.parent, HERE.parent.parent / "service"):
    sys.path.insert(0, str(folder))


def frames_in(data):
    """Return the format that *data* chooses, and its frames."""
    from localably.frames import Format  # noqa: PLC0415 - instrumented when fuzzing

    form = Format.MSGPACK if data[:1] < b"\x80" else Format.JSON
    frames, at = [], 1
    while at + 2 <= len(data) and len(frames) < 20:
        size = int.from_bytes(data[at : at + 2], "big") % 512
        frames.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return form, frames


def play(data):
    """Send the frames to a connection; another connection must keep working."""
    from channel_server.worlds import World, texts  # noqa: PLC0415 - instrumented when fuzzing
    from localably.frames import Format  # noqa: PLC0415 - instrumented when fuzzing

    world = World()
    form, frames = frames_in(data)
    peer = world.connect(form)
    for frame in frames:
        peer.connection.receive(
            frame.decode(errors="surrogateescape") if form is Format.JSON else frame
        )
        peer.take()
        if peer.connection.closing:
            peer = world.connect(form)
    world.pass_ms(600)
    reader = world.connect()
    reader.attach("room")
    world.connect().publish({"data": "still alive"})
    assert texts(reader.take()) == ["still alive"]


if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["localably", "localably"]):
        pass
    atheris.Setup(sys.argv, play)
    atheris.Fuzz()
