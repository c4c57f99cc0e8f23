"""Tickets stand for their key, for a short while."""

import time

import pytest

from tingdao.database import Database
from tingdao.errors import InvalidKey
from tingdao.keys import KeyStore
from tingdao.tickets import Tickets


@pytest.fixture
def store(tmp_path):
    store = KeyStore(Database(None, tmp_path))
    store.add("网页")
    store.reload()
    yield store
    store.close()


@pytest.fixture
def tickets(store):
    return Tickets(store, 60)


def test_a_ticket_stands_for_its_key_as_often_as_needed(tickets, store):
    ticket, expires = tickets.issue(store.named("网页"))
    assert ticket.startswith("ek_")
    assert expires == pytest.approx(time.time() + 60, abs=5)
    assert tickets.find(ticket) == tickets.find(ticket) == store.named("网页")


def test_instances_of_one_database_take_each_others(tickets, store, tmp_path):
    ticket, _ = tickets.issue(store.named("网页"))
    assert Tickets(KeyStore(Database(None, tmp_path)), 60).find(ticket).name == "网页"


def test_no_character_of_a_ticket_can_be_changed(tickets, store):
    ticket, _ = tickets.issue(store.named("网页"))
    for at in range(3, len(ticket) - 1):  # the last one has bits that mean nothing
        changed = ticket[:at] + ("A" if ticket[at] != "A" else "B") + ticket[at + 1 :]
        with pytest.raises(InvalidKey):
            tickets.find(changed)
    for wrong in ("ek_", "ek_a", "ek_é", "ek_" + "A" * 200, ticket[:40]):
        with pytest.raises(InvalidKey):
            tickets.find(wrong)


def test_it_ends_with_its_time(tickets, store, monkeypatch):
    ticket, expires = tickets.issue(store.named("网页"))
    monkeypatch.setattr(time, "time", lambda: expires + 0.1)
    with pytest.raises(InvalidKey, match="expired"):
        tickets.find(ticket)


def test_it_ends_with_its_key(tickets, store):
    ticket, _ = tickets.issue(store.named("网页"))
    store.revoke("网页")
    store.reload()
    with pytest.raises(InvalidKey, match="revoked"):
        tickets.find(ticket)
    store.add("网页")
    store.reload()
    with pytest.raises(InvalidKey, match="replaced"):
        tickets.find(ticket)
