"""For all ids and splits: store, REST, followers and clients equal one fold of the log."""

from __future__ import annotations

import os

from laws.identities import Run

LOGS = int(os.environ.get("IDENTITY_LOGS", "40"))
FIRST = int(os.environ.get("IDENTITY_FIRST", "0"))


async def test_every_component_equals_one_fold_of_the_log(store):
    differing = []
    for seed in range(FIRST, FIRST + LOGS):
        run = Run(seed, store)
        if found := await run.live():
            differing.append(seed)
            print(seed, found)
    print(f"{LOGS} logs, {len(differing)} differ")
    assert not differing
