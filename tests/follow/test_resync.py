"""The resync policy: each step of its table, and random sequences of inputs; no I/O."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rehydrate.core.event import Event, Version
from rehydrate.errors import StoreUnavailable
from rehydrate.follow.resync import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    STEPS,
    Adopt,
    Announce,
    Attach,
    Attached,
    Cancel,
    Continue,
    Detached,
    Emit,
    Fail,
    Gap,
    Interrupted,
    LiveEvent,
    Merge,
    Merged,
    Opened,
    Read,
    ReadFailed,
    SnapshotRead,
    State,
    Stopped,
    StoreChanged,
    Timer,
    Wait,
    pause_s,
    step,
)

NUMBERED = Event("token", "r", seq=1, text="a")
UNNUMBERED = Event("token", "r", text="a")
PROMPT = Event("prompt", "p", text="?")
APPEND = Event("token", "r", text="a", serial="s", version=Version("v"))
ERROR = StoreUnavailable("no answer")

READING_FIRST = State(in_flight=True, attempt=1)
LIVE = State("live", began_s=1.0, attempt=1)
PAUSING = State("behind", in_flight=True, began_s=10.0)
READING = State("behind", in_flight=True, began_s=10.0, attempt=1)
FIRST_WAIT = Wait(FIRST_PAUSE_S, begins=True)
NEXT_WAIT = Wait(2 * FIRST_PAUSE_S)


def lost(**more):
    """The state after a lost attachment, whose read has to start over."""
    return State("behind", True, 10.0, reread=True, announced=True, **more)


CASES = [
    # nothing was read yet
    (State(), Opened(), State(), (Attach(0.0),)),
    (State(), Attached(), State(in_flight=True, began_s=10.0, attempt=1), (Read(True, True),)),
    (
        READING_FIRST,
        Attached(),
        State(in_flight=True, began_s=10.0, attempt=1),
        (Cancel(), Read(True, True)),
    ),
    (
        State(),
        Detached(),
        State(in_flight=True, began_s=10.0, attempt=1, attaches=1),
        (Read(True, True), Attach(2 * FIRST_PAUSE_S)),
    ),
    (State(), StoreChanged(), State(), ()),
    (READING_FIRST, StoreChanged(), READING_FIRST._replace(reread=True), ()),
    (READING_FIRST, LiveEvent(NUMBERED), READING_FIRST, ()),
    (READING_FIRST, ReadFailed(ERROR), State("stopped"), (Fail(ERROR),)),
    (READING_FIRST, Merged(forced=False), State("live", attempt=1), (Adopt(complete=True),)),
    (
        READING_FIRST,
        Merged(forced=False, missing=frozenset("r")),
        State("behind", True, attempt=1, waiting=frozenset("r")),
        (Adopt(complete=False), NEXT_WAIT),
    ),
    # complete
    (LIVE, LiveEvent(UNNUMBERED), LIVE, (Emit(UNNUMBERED),)),
    (
        LIVE,
        Gap("r"),
        PAUSING._replace(waiting=frozenset("r")),
        (FIRST_WAIT,),
    ),
    (LIVE, StoreChanged(), PAUSING._replace(reread=True), (FIRST_WAIT,)),
    (LIVE, Interrupted(), lost(), (Announce(), FIRST_WAIT)),
    (
        LIVE,
        Detached(),
        lost(attaches=1),
        (Announce(), FIRST_WAIT, Attach(2 * FIRST_PAUSE_S)),
    ),
    (LIVE, Timer(), LIVE, ()),
    # something is missing
    (READING, LiveEvent(NUMBERED), READING, (Emit(NUMBERED),)),
    (READING, LiveEvent(APPEND), READING, (Emit(APPEND),)),
    (READING, LiveEvent(PROMPT), READING, (Emit(PROMPT),)),
    (READING, LiveEvent(UNNUMBERED), READING, ()),
    (
        READING._replace(waiting=frozenset("r")),
        LiveEvent(NUMBERED),
        READING._replace(waiting=frozenset("r")),
        (),
    ),
    (READING, Gap("r"), READING._replace(waiting=frozenset("r")), ()),
    (READING, StoreChanged(), READING._replace(reread=True), ()),
    (PAUSING, Timer(), READING, (Read(fresh=False),)),
    (PAUSING._replace(reread=True), Timer(), READING, (Read(fresh=True),)),
    (
        READING._replace(reread=True),
        Timer(),
        READING._replace(attempt=2),
        (Read(fresh=False),),
    ),
    (READING, ReadFailed(ERROR), READING, (NEXT_WAIT,)),
    (READING, Interrupted(), lost(), (Announce(), Cancel(), FIRST_WAIT)),
    (lost(), Interrupted(), lost(), (Cancel(), FIRST_WAIT)),
    (lost(attaches=1), Attached(), lost(), (Cancel(), FIRST_WAIT)),
    (READING, Merged(forced=False), LIVE._replace(began_s=10.0), (Adopt(complete=True),)),
    (READING, Merged(False, missing=frozenset("r")), READING, (NEXT_WAIT,)),
    (READING, Merged(False, stale=True), READING, (NEXT_WAIT,)),
    (READING, Merged(False, meets=False), READING, (NEXT_WAIT,)),
    (
        READING._replace(reread=True),
        Merged(False),
        READING._replace(reread=True),
        (NEXT_WAIT,),
    ),
    (READING, Merged(True, meets=False), LIVE._replace(began_s=10.0), (Adopt(True),)),
    (
        READING._replace(announced=True, waiting=frozenset("r")),
        Merged(True, stale=True),
        READING._replace(announced=True, continued=True),
        (Continue(lost=True), NEXT_WAIT),
    ),
    (
        READING._replace(continued=True),
        Merged(True, stale=True),
        READING._replace(continued=True),
        (NEXT_WAIT,),
    ),
    # stopped
    (READING, Stopped(), State("stopped"), (Cancel(),)),
    (LIVE, Stopped(), State("stopped"), ()),
    (State("stopped"), LiveEvent(NUMBERED), State("stopped"), ()),
]


@pytest.mark.parametrize(
    ("before", "input_", "after", "effects"),
    CASES,
    ids=[f"{before.phase}-{type(input_).__name__}" for before, input_, *_ in CASES],
)
def test_each_step(before, input_, after, effects):
    assert step(before, input_, 10.0) == (after, effects)


def test_what_does_not_fit_is_forced_after_two_and_a_half_seconds():
    assert step(READING, SnapshotRead(), 12.5) == (READING, (Merge(force=False),))
    assert step(READING, SnapshotRead(), 12.51) == (READING, (Merge(force=True),))


def test_pauses_double_up_to_a_limit():
    assert [pause_s(attempt) for attempt in range(4)] == [0.05, 0.1, 0.2, 0.4]
    assert pause_s(10_000) == LONGEST_PAUSE_S


def test_every_phase_can_be_stopped_and_a_stopped_one_ignores_every_input():
    assert {phase for phase, steps in STEPS.items() if Stopped in steps} == set(STEPS) - {"stopped"}
    assert not STEPS["stopped"]


class Runner:
    """Runs the effects of the policy in memory, and checks its promises after every input.

    Attributes:
        attached: the channel is attached.
        attaching: an attach is under way.
        flight: the pause or the read in flight; None: neither.
        gaps: messages with missing events, as followers were last left with them.
        untold: messages may have been missed, and followers have not been informed since.
        changed: the store changed after the read in flight had begun.
    """

    def __init__(self):
        self.state = State()
        self.now_s = 0.0
        self.attached = self.attaching = self.changed = self.untold = self.has_snapshot = False
        self.flight = None
        self.gaps = set()
        self.merging = None  # whether to force, between a read and the report of its merge
        self.emitted = []

    def give(self, input_):
        before = self.state
        self.state, effects = step(before, input_, self.now_s)
        loses = isinstance(input_, Interrupted | Detached)
        if loses and self.has_snapshot and before.phase != "stopped":
            self.untold = self.untold or not before.announced
        if isinstance(input_, Gap):
            self.gaps.add(input_.message_id)
        for effect in effects:
            self.run(effect)
        if isinstance(input_, Gap | Attached | Interrupted | Detached):
            assert self.flight is not None, "whatever is missing is being read"
            assert not self.untold, "a lost attachment is announced at once"
        if isinstance(input_, Detached):
            assert self.attaching, "a lost attachment is made again"
        if self.state.phase == "live":
            assert self.flight is None
            assert not self.gaps
        elif self.state.phase == "behind":
            assert self.flight is not None or self.merging is not None

    def run(self, effect):
        match effect:
            case Attach(longest_s):
                assert not self.attached
                assert not self.attaching
                assert 0 <= longest_s <= LONGEST_PAUSE_S
                self.attaching = True
            case Wait(longest_s):
                assert self.flight is None, "no two reads in flight"
                assert 0 < longest_s <= LONGEST_PAUSE_S
                self.flight = "pause"
            case Read():
                assert self.flight is None, "no two reads in flight"
                self.flight, self.changed = "read", False
            case Cancel():
                assert self.flight is not None
                self.flight = None
            case Merge(force):
                self.merging = force
            case Adopt(complete):
                assert not (complete and self.changed), "the store changed after it was read"
                self.gaps = set(self.merged.missing)
                self.untold, self.has_snapshot = False, True
            case Continue():
                assert self.has_snapshot
                self.gaps, self.untold = set(), False
            case Announce():
                assert self.has_snapshot
                self.untold = False
            case Emit(event):
                assert self.has_snapshot
                assert not self.untold, "followers know that messages may be missing"
                assert event.message_id not in self.gaps, "nothing follows a gap"
                assert event.seq is not None or self.state.phase == "live"
                self.emitted.append(event)

    def merge(self, **found):
        """Finish the read in flight."""
        self.flight = None
        self.give(SnapshotRead())
        force, self.merging = self.merging, None
        missing = frozenset() if force else found.pop("missing", frozenset())
        found.pop("missing", None)
        self.merged = Merged(force, missing, **found)
        self.give(self.merged)


LIVE_EVENTS = [
    Event("token", id_, seq=seq, text="a") for id_ in ("r", "s", None) for seq in (1, None)
]


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_no_sequence_of_inputs_breaks_a_promise(data):
    runner = Runner()
    runner.give(Opened())
    for _ in range(data.draw(st.integers(1, 40))):
        runner.now_s += data.draw(st.sampled_from([0.0, 0.1, 1.0, 3.0]))
        possible = ["store"]
        if runner.attaching:
            possible += ["attach", "detach"]
        if runner.attached:
            possible += ["live", "live", "live", "gap", "interrupt", "detach", "cut"]
        if runner.flight == "pause":
            possible += ["timer"] * 3
        if runner.flight == "read":
            possible += ["merge", "merge", "merge", "fail"]
        one_of(data.draw(st.sampled_from(possible)), runner, data)
        if runner.state.phase == "stopped":
            return
    finish(runner)


def one_of(kind, runner, data):
    """Give *runner* an input of *kind*."""
    match kind:
        case "store":
            runner.changed = True
            runner.give(StoreChanged())
        case "attach":
            runner.attaching, runner.attached = False, True
            runner.give(Attached())
        case "detach":
            runner.attaching = runner.attached = False
            runner.give(Detached())
        case "live":
            runner.give(LiveEvent(data.draw(st.sampled_from(LIVE_EVENTS))))
        case "gap":
            event = data.draw(st.sampled_from(LIVE_EVENTS))
            count = len(runner.emitted)
            runner.give(LiveEvent(event))
            if len(runner.emitted) > count:
                runner.give(Gap(event.message_id))
        case "interrupt":
            runner.give(Interrupted())
        case "timer":
            runner.flight = None
            runner.give(Timer())
        case "fail":
            runner.flight = None
            runner.give(ReadFailed(ERROR))
        case "merge":
            runner.merge(
                missing=frozenset(data.draw(st.sets(st.sampled_from(["r", "s"])))),
                stale=data.draw(st.booleans()),
                meets=data.draw(st.booleans()),
            )


def finish(runner):
    """Let every attach and read succeed: the conversation is complete again."""
    if runner.attaching:
        runner.attaching, runner.attached = False, True
        runner.give(Attached())
    for _ in range(4):
        if runner.flight == "pause":
            runner.flight = None
            runner.give(Timer())
        if runner.flight == "read":
            runner.merge()
    assert runner.state.phase == "live"
    assert not runner.state.waiting
