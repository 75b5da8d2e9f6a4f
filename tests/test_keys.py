"""Keys: shown once, kept as a hash, looked up by their public part, compared in constant time."""

import hashlib
import hmac
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hoidap.errors import RequestError, StoreError
from hoidap.serve import keys as keys_module
from hoidap.serve.keys import Key, Keys
from hoidap.serve.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store.open(tmp_path_factory.mktemp("keys") / "hoidap.db", busy_seconds=0.05)
    yield store
    store.close()


@pytest.fixture
def keys(store):
    found = Keys(store)
    for key in found.all():
        found.revoke(key.id)
    return found


def test_a_key_is_known_by_its_text(keys):
    text, key = keys.make("Trang của tiệm", "chat")
    assert re.fullmatch(r"hd-[0-9a-f]{12}-[A-Za-z0-9_-]{43}", text)
    assert keys.check(text) == key == Key(key.id, "Trang của tiệm", "chat")
    assert keys.all() == [key]
    assert "-" + key.id + "-" in text


def test_there_are_keys_once_one_was_made(keys):
    assert not keys.exist()
    _, key = keys.make("Lan", "owner")
    assert keys.exist()
    assert keys.revoke(key.id)
    assert not keys.exist()


def test_a_revoked_key_is_known_no_more_even_where_it_was_made_elsewhere(tmp_path):
    path = tmp_path / "hoidap.db"
    here, there = Store.open(path), Store.open(path)
    text, key = Keys(there).make("Mai", "owner")
    assert Keys(here).check(text) == key
    assert Keys(there).revoke(key.id)
    assert Keys(here).check(text) is None
    assert not Keys(here).revoke(key.id)
    here.close()
    there.close()


def test_the_secret_is_in_no_byte_of_the_file(tmp_path):
    store = Store.open(tmp_path / "hoidap.db")
    text, _ = Keys(store).make("Lan", "owner")
    secret = text[-43:]
    held = b"".join(part.read_bytes() for part in tmp_path.iterdir())
    store.close()
    assert secret.encode() not in held
    assert hashlib.sha256(secret.encode()).digest() in held


def test_two_keys_have_nothing_in_common(keys):
    texts = {keys.make("Lan", "chat")[0] for _ in range(20)}
    assert len({text[3:15] for text in texts}) == len({text[16:] for text in texts}) == 20


def test_another_key_s_secret_opens_nothing(keys):
    one, _ = keys.make("Một", "chat")
    other, _ = keys.make("Hai", "owner")
    assert keys.check(one[:16] + other[16:]) is None
    assert keys.check(other[:16] + one[16:]) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[:-1],
        lambda t: t + "A",
        lambda t: t + "\n",
        lambda t: " " + t,
        lambda t: t.upper(),
        lambda t: t[:-1] + ("A" if t[-1] != "A" else "B"),
        lambda t: t.replace("hd-", "sk-"),
        lambda t: t[:16],
        lambda _t: "",
        lambda t: t * 1000,
        lambda t: t[:3] + "%" * 12 + t[15:],
    ],
)
def test_what_is_nearly_a_key_is_none(keys, change):
    text, _ = keys.make("Lan", "owner")
    assert keys.check(change(text)) is None


@given(st.text(max_size=100))
@settings(max_examples=100, deadline=None)
def test_no_other_text_is_a_key(store, text):
    assert Keys(store).check(text) is None


def test_known_or_not_a_key_s_hash_is_compared_in_constant_time(keys, monkeypatch):
    compared, compare = [], hmac.compare_digest

    def watch(one, other):
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(keys_module.hmac, "compare_digest", watch)
    text, _ = keys.make("Lan", "chat")
    keys.check(text)
    keys.check(text[:3] + "0" * 12 + text[15:])
    assert compared == [(32, 32), (32, 32)]


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "Lan\x1b[31m", "Lan\u202e"])
def test_a_name_that_cannot_be_shown_is_refused(keys, name):
    with pytest.raises(RequestError, match="the name of a key"):
        keys.make(name, "chat")
    assert keys.all() == []


def test_a_role_that_is_none_is_refused(keys):
    with pytest.raises(RequestError, match="'root'; it takes 'chat' or 'owner'"):
        keys.make("Lan", "root")


def test_a_name_stands_on_one_line(keys):
    assert keys.make("Lan\nHD- admin", "chat")[1].name == "Lan HD- admin"


def test_a_file_that_cannot_be_read_is_told_of(tmp_path):
    store = Store.open(tmp_path / "hoidap.db", busy_seconds=0.05)
    text, _ = Keys(store).make("Lan", "owner")
    store.close()
    (tmp_path / "hoidap.db").write_bytes(b"broken" * 1000)
    with pytest.raises(StoreError):
        Keys(store).check(text)
    store.close()
