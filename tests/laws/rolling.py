"""Channel messages that grow, as history and as attachments show them."""

from __future__ import annotations

from rehydrate.core.event import APPEND, UPDATE


def rolled(posted):
    """What history shows of *posted*: each channel message once, where it was created, whole."""
    rows = {}
    for each in posted:
        message = each.message
        if message.action != APPEND:
            rows[message.serial or message.id] = each
            continue
        before = rows[message.serial].message
        text = before.data + message.data
        rows[message.serial] = each._replace(message=message._replace(action=UPDATE, data=text))
    return list(rows.values())


def changed_ms(message):
    """When *message* was created, or had its newest version."""
    return message.timestamp_ms if not message.action else int(message.version_serial[:14])


def rewound(log, at_ms, low_ms):
    """What an attach at *at_ms* is shown first: what was changed since *low_ms*."""
    past = [each for each in log if changed_ms(each.message) <= at_ms]
    found = [each for each in rolled(past) if changed_ms(each.message) >= low_ms]
    return sorted(found, key=lambda each: changed_ms(each.message))


def live(world, attached_ms, shown):
    """What it is shown then: all of a message at first sight, what was appended ever after.

    *shown*: the messages of which it has had all. An append that is held back comes with the next
    one of its message, behind whatever else was said meanwhile.
    """
    known = {each.message.serial for each in shown}
    held, delivered, past = {}, [], []
    for each in world.log:
        past.append(each)
        message = each.message
        if changed_ms(message) <= attached_ms:
            continue
        if message.action != APPEND:
            known.add(message.serial)
            delivered.append(each)
            continue
        waiting = held.setdefault(message.serial, [])
        waiting.append(message)
        more = [m for m in (p.message for p in world.log) if m.serial == message.serial]
        if message.version_serial in world.held and more[-1] is not message:
            continue
        data = "".join(m.data for m in held.pop(message.serial))
        if message.serial in known:
            delivered.append(each._replace(message=message._replace(data=data)))
        else:
            known.add(message.serial)
            whole = next(p for p in rolled(past) if p.message.serial == message.serial)
            delivered.append(whole)
    return delivered
