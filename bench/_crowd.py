"""A thousand readers in a separate process, as cheap as possible since they share the machine.

Standard input names the URL; they all join at once, and a line reports when all have joined. Then a
tenth of them stalls, a tenth records when each token arrived, and the others read occasionally. When
standard input ends, the results are printed.
"""

from __future__ import annotations

import gc
import json
import re
import select
import socket
import sys
import time
from itertools import chain

SENT = re.compile(rb'"text":"(\d+\.\d+)"')
NOW_AND_THEN_S = 0.4
PATIENCE_S = 60
READ_BYTES = 1 << 18


class Reader:
    def __init__(self, address):
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(address)
        self.came = []
        self.whole_s = None
        self.lost = False

    def read(self):
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        self.lost = self.lost or not data
        return data

    def note(self, now_s):
        data = self.read()
        if data:
            self.came.append((now_s, data))


def join(job):
    """Join with all readers at once; return the time of each to its complete snapshot."""
    began_s, poll = time.perf_counter(), select.epoll()
    readers = [Reader((job["host"], job["port"])) for _ in range(job["count"])]
    by_fd = {reader.socket.fileno(): reader for reader in readers}
    for fd in by_fd:
        poll.register(fd, select.EPOLLOUT)
    left = len(readers)
    while left and time.perf_counter() - began_s < PATIENCE_S:
        for fd, _ in poll.poll(1):
            reader = by_fd[fd]
            if reader.socket is not None and not reader.came:
                reader.socket.sendall(job["request"].encode())
                reader.came = [b""]
                poll.modify(fd, select.EPOLLIN)
                continue
            data = reader.read()
            reader.came.append(data)
            if reader.lost or is_whole(reader.came):
                reader.whole_s = None if reader.lost else time.perf_counter() - began_s
                poll.unregister(fd)
                left -= 1
    for reader in readers:
        reader.came = []
    return readers


def is_whole(pieces):
    if not pieces[-1].endswith(b"\n\n\r\n"):
        return False
    return b"event: snapshot" in b"".join(pieces)


def listen(readers):
    """Run until standard input ends."""
    timed = {reader.socket.fileno(): reader for reader in readers[1::10]}
    others = [r for n, r in enumerate(readers) if n % 10 > 1]
    poll = select.epoll()
    for fd in (sys.stdin.fileno(), *timed):
        poll.register(fd, select.EPOLLIN)
    due_s = time.monotonic() + NOW_AND_THEN_S
    ended = False
    while not ended:
        for fd, _ in poll.poll(max(0, due_s - time.monotonic())):
            if fd in timed:
                timed[fd].note(time.time())
            else:
                ended = True
        if ended or time.monotonic() >= due_s:
            for reader in others:
                reader.note(time.time())
            due_s = time.monotonic() + NOW_AND_THEN_S
    return list(timed.values()), others


def late_ms(reader):
    """Return the delay of each token that *reader* recorded."""
    late, tail = [], b""
    for now_s, data in reader.came:
        tail, end = tail + data, 0
        for found in SENT.finditer(tail):
            late.append((now_s - float(found[1])) * 1000)
            end = found.end()
        tail = tail[end:]
    return late


def main():
    gc.disable()
    job = json.loads(sys.stdin.buffer.raw.readline())
    readers = join(job)
    whole_ms = [each.whole_s * 1000 for each in readers if each.whole_s is not None]
    print(json.dumps({"joined": len(whole_ms), "last_ms": max(whole_ms, default=0)}), flush=True)
    timed, others = listen(readers)
    late = [late_ms(reader) for reader in timed]
    counts = [len(SENT.findall(b"".join(d for _, d in r.came))) for r in others]
    result = {"late_ms": list(chain(*late)), "counts": [len(each) for each in late] + counts}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
