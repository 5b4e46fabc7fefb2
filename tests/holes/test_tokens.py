"""H01 to H09: message-per-token, hydrated by rewind (R) or by history until the attach (H)."""

from __future__ import annotations

from holes.recipes import Shown, TokenHistory, TokenRewind

A3 = ("A1 ", "A2 ", "A3 ")
B3 = ("B1 ", "B2 ", "B3 ")
A, B = "".join(A3), "".join(B3)
STREAMING, DONE = "in progress", "completed"


async def test_h01_a_stored_response_stops_the_walk(stage, row):
    """The walk stops at the first stored response, and never reads the messages before it."""
    stage.truth |= {"A": A, "B": B}
    a = await stage.begin("A")
    await a.write("A1 ")
    b = await stage.begin("B")
    await b.write("B1 ")
    await a.write("A2 ", "A3 ")
    await a.end()
    stage.store("A", A)
    await b.write("B2 ")
    recipe = stage.recipe(TokenHistory)
    await recipe.hydrate()
    ours = await stage.readers()
    wrong = [Shown("A", A, DONE), Shown("B", "B2 ", STREAMING)]
    right = [Shown("A", A, DONE), Shown("B", "B1 B2 ", STREAMING)]
    await recipe.shows(*wrong)
    await ours.must_show(*right)
    await b.write("B3 ")
    await recipe.shows(wrong[0], Shown("B", "B2 B3 ", STREAMING))
    await ours.must_show(right[0], Shown("B", B, STREAMING))
    await b.end()
    await ours.must_show(right[0], Shown("B", B, DONE))
    row.shows("token H", wrong, right)


async def test_h02_a_short_response_within_a_long_one(stage, row):
    """A response that begins and ends within a long one hides the part of the long one before it."""
    stage.truth |= {"A": A, "B": B}
    b = await stage.begin("B")
    await b.write("B1 ", "B2 ")
    await stage.respond("A", *A3)
    recipe = stage.recipe(TokenHistory)
    await recipe.hydrate()
    ours = await stage.readers()
    wrong = [Shown("A", A, DONE)]
    right = [Shown("A", A, DONE), Shown("B", "B1 B2 ", STREAMING)]
    await recipe.shows(*wrong)
    await ours.must_show(*right)
    await b.write("B3 ")
    wrong = [*wrong, Shown("B", "B3 ", STREAMING)]
    right = [right[0], Shown("B", B, STREAMING)]
    await recipe.shows(*wrong)
    await ours.must_show(*right)
    row.shows("token H", wrong, right)


async def test_h03_more_tokens_than_a_rewind_gives(stage, row):
    """An attach rewinds at most 100 messages, and ably-python drops the error that reports the
    limit."""
    tokens = [f"A{n} " for n in range(1, 141)]
    stage.truth["A"] = "".join(tokens)
    a = await stage.begin("A")
    await a.write(*tokens)
    recipe = stage.recipe(TokenRewind)
    await recipe.hydrate()
    ours = await stage.readers()
    wrong, right = "".join(tokens[40:]), "".join(tokens)
    await recipe.shows(Shown("A", wrong, STREAMING))
    assert recipe.noticed is None
    await ours.must_show(Shown("A", right, STREAMING))
    row.shows("token R", [Shown("A", wrong, STREAMING)], [Shown("A", right, STREAMING)])


async def test_h04_a_response_that_is_older_than_the_window(stage, row):
    """A response streams for longer than a channel without persistence keeps history."""
    stage.truth["A"] = A
    a = await stage.begin("A")
    await a.write("A1 ", "A2 ")
    await stage.record()
    stage.expire()
    await a.write("A3 ")
    recipe = stage.recipe(TokenRewind)
    await recipe.hydrate()
    ours = await stage.readers()
    await recipe.shows(Shown("A", "A3 ", STREAMING))
    await ours.must_show(Shown("A", A, STREAMING))
    await a.end()
    await ours.must_show(Shown("A", A, DONE))
    row.shows("token R", recipe.shown, [Shown("A", A, DONE)])


async def test_h05_the_database_is_read_before_the_attach(stage, row):
    """A response ends between the read of the database and the attach: it is never marked as ended,
    and its expired part is missing, though the database has all of it."""
    stage.truth |= {"A": A, "B": B}
    a, b = await stage.begin("A"), await stage.begin("B")
    await a.write("A1 ", "A2 ")
    recipe = stage.recipe(TokenHistory)
    await recipe.read_database()
    ours = await stage.waiting_readers()
    await stage.record()
    stage.expire()
    await a.write("A3 ")
    await b.write(*B3)
    for speaker, text in ((a, A), (b, B)):
        await speaker.end()
        stage.store(speaker.id, text)
    await recipe.attach()
    await recipe.read_history()
    stage.answer()
    wrong = [Shown("A", "A3 ", STREAMING), Shown("B", B, STREAMING)]
    right = [Shown("A", A, DONE), Shown("B", B, DONE)]
    assert sorted(recipe.shown) == wrong
    await ours.must_show(*right)
    row.shows("token H", wrong, right)


async def test_h07_the_database_is_read_after_the_attach(stage, row):
    """The database is read after the attach and contains a response that has streamed meanwhile: it
    is shown twice."""
    stage.truth["A"] = A
    recipe = stage.recipe(TokenRewind)
    await recipe.attach()
    ours = await stage.waiting_readers()
    await stage.respond("A", *A3)
    await recipe.shows(Shown("A", A, STREAMING))
    await recipe.read_database()
    stage.answer()
    wrong = [Shown("A", A, DONE), Shown("A", A, STREAMING)]
    assert recipe.shown == wrong
    await ours.must_show(Shown("A", A, DONE))
    row.shows("token R", wrong, [Shown("A", A, DONE)])


async def test_h08_a_publish_is_refused(stage, row):
    """Ably refuses a token and accepts the next: nothing shows that one is missing, and a reader
    that subscribes only to tokens never sees the repair."""
    tokens = ("A1 ", "A2 ", "A3 ", "A4 ")
    stage.truth["A"] = "".join(tokens)
    recipe = stage.recipe(TokenRewind)
    await recipe.hydrate()
    ours = await stage.readers()
    a = await stage.begin("A")
    await a.write("A1 ")
    with stage.fault("refuse_publish", code=42911, nth=1):
        await a.write("A2 ", refused=True)
        await a.write("A3 ", "A4 ")
    await a.end()
    wrong, right = Shown("A", "A1 A3 A4 ", STREAMING), Shown("A", stage.truth["A"], DONE)
    await ours.must_show(right)
    await recipe.shows(wrong)
    assert "response-complete" in [m.fields["name"] for m in stage.on_channel()]
    row.shows("token R, H", [wrong], [right])


async def test_h09_a_repair_is_read_as_a_token(stage, row):
    """History is not filtered by name: a repair, a start, a stop and a prompt are read as tokens."""
    stage.truth |= {"A": A, "p": "Tell me."}
    recipe = stage.recipe(TokenHistory)
    recipe.any_name = True
    await recipe.read_database()
    await stage.publish("user-input", {"promptId": "p", "text": "Tell me."}, id_="p")
    await stage.publish_response("A", "A1 ", "A2 ")
    await stage.publish_response("A", "A4 ", first=4)
    repair = {"text": A, "parts": [{"type": "text", "text": A}]}
    await stage.publish("response-complete", repair["text"], rid="A", seq=4)
    await stage.publish("stop", rid="A", seq=5)
    await recipe.attach()
    await recipe.read_history()
    ours = await stage.readers()
    wrong = [
        Shown("A", f"undefinedA1 A2 A4 {A}undefined", STREAMING),
        Shown("undefined", "[object Object]", STREAMING),
    ]
    assert sorted(recipe.shown) == wrong
    right = [Shown("p", "Tell me.", DONE), Shown("A", A, DONE)]
    await ours.must_show(*right)
    row.shows("token H", wrong, right)
