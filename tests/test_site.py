"""What the site gives out: pages that run their own scripts and nothing else, and no file but their own."""

import asyncio
import gzip
import re
from urllib.parse import unquote, urljoin

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from hoidap.errors import RecipeError
from hoidap.serve.site import FILES, make_site

SHOP = "https://shop.example"
OWN = sorted(path for path in FILES.iterdir() if path.is_file())
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in OWN}
SCRIPTS = sorted(name for name in TEXTS if name.endswith(".js"))


def site(*origins):
    app = FastAPI(docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(make_site(origins))
    return TestClient(app, follow_redirects=False)


@pytest.fixture(scope="module")
def client():
    return site(SHOP)


def policy(response):
    rules = (rule.split() for rule in response.headers["Content-Security-Policy"].split(";"))
    return {name: values for name, *values in rules}


def parts(client):
    """The addresses that the pages name, and those that these name."""
    found, waiting = {}, ["/", "/owner"]
    while waiting:
        address = waiting.pop()
        if address in found:
            continue
        found[address] = client.get(address)
        text = found[address].text
        named = re.findall(r'(?:src|href)="([^"#]+)"', text) if address in {"/", "/owner"} else []
        named += re.findall(r'from "(\./[^"]+)"', text) if address.endswith(".js") else []
        waiting += [urljoin(address, name) for name in named]
    return found


def test_pages_run_their_own_scripts_and_nothing_else(client):
    for address in ("/", "/owner", "/?embedded=1"):
        rules = policy(client.get(address))
        ancestors = rules.pop("frame-ancestors")
        assert ancestors == (["'self'", SHOP] if "embedded" in address else ["'none'"])
        assert rules == {
            "default-src": ["'none'"],
            "script-src": ["'self'"],
            "style-src": ["'self'"],
            "img-src": ["'self'", "data:"],
            "connect-src": ["'self'"],
            "base-uri": ["'none'"],
            "form-action": ["'self'"],
            "require-trusted-types-for": ["'script'"],
            "trusted-types": ["'none'"],
        }


def test_pages_carry_the_other_headers(client):
    for address in ("/", "/owner"):
        headers = client.get(address).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cache-Control"] == "no-cache"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert "Set-Cookie" not in headers
        assert "Access-Control-Allow-Origin" not in headers


def test_no_site_may_frame_the_page_unless_it_is_allowed():
    response = site().get("/?embedded=1")
    assert policy(response)["frame-ancestors"] == ["'none'"]
    assert response.headers["X-Frame-Options"] == "DENY"


def test_the_owners_page_is_never_framed(client):
    assert policy(client.get("/owner?embedded=1"))["frame-ancestors"] == ["'none'"]


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "",
            "*",
            "shop.example",
            "https://",
            "https://*",
            "https://*.example",
            "https://shop.example/",
            "ftp://shop.example",
        ),
        *("https://shop.example; script-src *", "https://a.example https://b.example", "https://shop.example\r\nX: 1"),
        *(
            "javascript:alert(1)",
            "https://shop.example:99999999",
            "'self'",
            "https://ti\u1ec7m.example",
            "https://shop.example\n",
        ),
    ],
)
def test_what_is_no_origin_does_not_reach_a_header(origin):
    with pytest.raises(RecipeError, match=r"https://shop\.example"):
        make_site([origin])


def test_every_part_that_is_named_is_there_and_every_file_is_named(client):
    found = parts(client)
    assert {address: response.status_code for address, response in found.items() if response.status_code != 200} == {}
    names = {address.rsplit("/", 1)[-1] for address in found}
    assert names >= {name for name in TEXTS if not name.endswith(".html")} - {"widget.js"}


def test_parts_are_kept_for_ever_under_the_hash_of_all(client, tmp_path, monkeypatch):
    for address, response in parts(client).items():
        if address not in {"/", "/owner"}:
            assert re.fullmatch(r"/page/[0-9a-f]{16}/[a-z-]+\.(js|css|svg)", address)
            assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
    before = re.search(r"page/[0-9a-f]{16}", client.get("/").text)[0]
    for path in OWN:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "memory.js").write_text(TEXTS["memory.js"] + "// changed\n", encoding="utf-8")
    monkeypatch.setattr("hoidap.serve.site.FILES", tmp_path)
    changed = site()
    after = re.search(r"page/[0-9a-f]{16}", changed.get("/").text)[0]
    assert after != before
    assert changed.get(f"/{after}/memory.js").text.endswith("// changed\n")
    assert changed.get(f"/{before}/memory.js").status_code == 404


def test_scripts_and_styles_have_the_kinds_that_browsers_ask_for(client):
    kinds = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
    for address, response in parts(client).items():
        if address not in {"/", "/owner"}:
            assert response.headers["Content-Type"] == kinds[address.rsplit(".", 1)[-1]]


def test_what_the_browser_has_is_not_sent_again(client):
    first = client.get("/")
    again = client.get("/", headers={"If-None-Match": f'"other", W/{first.headers["ETag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["Content-Security-Policy"] == first.headers["Content-Security-Policy"]
    assert client.get("/", headers={"If-None-Match": '"other"'}).status_code == 200


def test_what_is_sent_packed_is_the_same(client):
    plain = client.get("/", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    with client.stream("GET", "/", headers={"Accept-Encoding": "gzip"}) as response:
        packed = b"".join(response.iter_raw())
        assert response.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed) == plain.content
    assert plain.headers["Vary"] == "Accept-Encoding"


TRAVERSALS = (
    *("../site.py", "..%2fsite.py", "%2e%2e/site.py", "%2e%2e%2fsite.py", "....//site.py", "..\\site.py", "..%5csite.py"),
    *("/etc/passwd", "%2fetc%2fpasswd", "//etc/passwd", "chat.js/../../site.py", "chat.js%00.css", "chat.js::$DATA"),
    *(
        "C:\\windows\\win.ini",
        "C:/windows/win.ini",
        "chat.html",
        "owner.html",
        "CHAT.JS",
        "chat.js/",
        ".",
        "..",
        "%2e",
        "~root",
    ),
    *(
        "..%252f..%252fsite.py",
        "%c0%ae%c0%ae/site.py",
        "\u2025/site.py",
        "chat.js;/../site.py",
        "__pycache__",
        "con",
        "a" * 5000,
    ),
)


def asked_raw(client, path):
    """Ask for a path as it is: a client would put it in order first. Returns status and content."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http"}
    scope |= {"path": unquote(path), "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": []}
    asyncio.run(client.app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize("name", TRAVERSALS)
def test_no_name_reaches_another_file(client, name):
    version = re.search(r"page/[0-9a-f]{16}", client.get("/").text)[0]
    assert asked_raw(client, f"/{version}/chat.js")[0] == 200
    for path in (
        f"/{version}/{name}",
        f"/page/{name}",
        f"/page/{name}/chat.js",
        f"/page/../{name}/chat.js",
        f"//{version}/{name}",
    ):
        status, content = asked_raw(client, path)
        assert status == 404, path
        assert len(content) < 100, path


def test_a_huge_range_costs_nothing_and_changes_nothing(client):
    plain = client.get("/")
    ranges = "bytes=" + ",".join(f"{n}-" for n in range(20_000))
    for value in (ranges, "bytes=0-0," * 10_000, "bytes=-" + "9" * 50_000, "bytes=5-1", "lines=1-2"):
        response = client.get("/", headers={"Range": value})
        assert (response.status_code, response.content) == (200, plain.content)
        assert "Content-Range" not in response.headers


def test_only_reading_is_allowed(client):
    for address in ("/", "/owner", "/widget.js"):
        assert client.head(address).status_code == 200
        assert client.head(address).content == b""
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert client.request(method, address).status_code == 405


def test_other_sites_may_load_the_widget_and_nothing_else(client):
    headers = client.get("/widget.js").headers
    assert headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert headers["Cache-Control"] == "public, max-age=3600"
    assert headers["Content-Type"] == "text/javascript; charset=utf-8"
    for address, response in parts(client).items():
        assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin", address


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_no_file_names_an_address_elsewhere(name):
    named = re.findall(r"(?:https?:|wss?:)?//[a-z0-9][\w.-]*\.[a-z]{2,}[^\s\"'`)<>]*", TEXTS[name])
    assert [a for a in named if not re.match(r"(http://www\.w3\.org/2000/svg|https://bot\.shop\.example/)", a)] == []
    assert not re.search(r"@import|url\((?!data:)", TEXTS[name])


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_reads_html_or_evaluates_text(name):
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "new Function", "srcdoc", "DOMParser"):
        assert sink not in TEXTS[name]
    assert not re.search(
        r"set(Timeout|Interval)\(\s*[\"'`]|createContextualFragment|\beval\b|createPolicy|cookie", TEXTS[name]
    )


@pytest.mark.parametrize("name", ["chat.html", "owner.html"])
def test_pages_hold_no_script_or_style_of_their_own(name):
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", TEXTS[name])


def test_every_word_stands_in_both_languages_with_the_same_places():
    rows = re.findall(
        r'^  (\w+): \[\s*"((?:[^"\\]|\\.)*)",\s*"((?:[^"\\]|\\.)*)",?\s*\]', TEXTS["vocabulary.js"], re.MULTILINE
    )
    assert len(rows) == TEXTS["vocabulary.js"].count("["), "a row that was not read"
    assert len({name for name, _, _ in rows}) == len(rows)
    for name, vietnamese, english in rows:
        assert vietnamese, name
        assert english, name
        assert set(re.findall(r"\{\w+\}", vietnamese)) == set(re.findall(r"\{\w+\}", english)), name


def test_every_word_that_is_used_is_there_and_every_one_there_is_used():
    known = set(re.findall(r"^  (\w+): \[", TEXTS["vocabulary.js"], re.MULTILINE))
    pages = "".join(text for name, text in TEXTS.items() if name.endswith(".html"))
    named = set(re.findall(r'data-(?:word|label|hint)="(\w+)"', pages))
    code = "".join(TEXTS[name] for name in SCRIPTS if name not in {"vocabulary.js", "widget.js"})
    named |= set(re.findall(r'\b(?:word|label|hint): "(\w+)"', code)) | set(re.findall(r'\bword\("(\w+)"', code))
    assert named <= known
    assert {name for name in known - named if not re.search(rf'"{name}"', code)} == set()


def test_files_stay_small():
    assert {name: text.count("\n") for name, text in TEXTS.items() if text.count("\n") > 420} == {}
    assert sum(len(gzip.compress(text.encode())) for name, text in TEXTS.items() if name != "widget.js") < 50_000
