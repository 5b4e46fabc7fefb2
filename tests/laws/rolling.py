"""Channel messages that grow by appends, as history and as attachments deliver them."""

from __future__ import annotations

from rehydrate.core.event import APPEND, UPDATE


def rolled(posted):
    """Return history after *posted*: each channel message once, at its creation, with its whole text."""
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
    """Return when *message* was created or last changed, in ms."""
    return message.timestamp_ms if not message.action else int(message.version_serial[:14])


def rewound(log, at_ms, low_ms):
    """Return what an attach at *at_ms* rewinds: the messages that changed since *low_ms*."""
    past = [each for each in log if changed_ms(each.message) <= at_ms]
    found = [each for each in rolled(past) if changed_ms(each.message) >= low_ms]
    return sorted(found, key=lambda each: changed_ms(each.message))


def live(world, attached_ms, shown):
    """Return what it receives then: a message whole the first time, and later the appended parts.

    *shown*: the messages that it has received whole. An append that is held back is delivered with
    the next one of its message, after all that was published meanwhile.
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
