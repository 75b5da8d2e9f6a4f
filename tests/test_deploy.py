"""The examples of deployment say what the code does: options, names, ports, limits; servers that are here read them."""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer.main
from fake_engine import FakeEngine, bots
from served import serving

from hoidap.cli import app
from hoidap.errors import RecipeError
from hoidap.serve import server
from hoidap.serve.settings import Settings

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "deploy"
UNITS = ("hoidap.service", "hoidap-webhook.service")
NAME = "chat.shop.example"
BYTES = {"k": 1024, "m": 1024**2, "KiB": 1024, "MiB": 1024**2}


def read(name):
    return (FOLDER / name).read_text(encoding="utf-8")


def joined(text):
    """Return lines, those that a backslash continues in one."""
    return re.sub(r"\\\n\s*", " ", text).splitlines()


def unit(name):
    """Return the settings of a unit: name → values."""
    found = {}
    for line in joined(read(name)):
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value.strip())
    return found


def instructions():
    """Return what a Dockerfile does: (instruction, rest)."""
    return [tuple(line.split(None, 1)) for line in joined(read("Dockerfile")) if line and not line.startswith("#")]


def blocks(words):
    """Return directives as (words, directives inside) from words, ";", "{" and "}"."""
    found, current = [], []
    for word in words:
        if word == "}":
            assert not current, f"{current} has no end"
            return found
        if word == "{":
            found.append((current, blocks(words)))
            current = []
        elif word == ";":
            found.append((current, []))
            current = []
        else:
            current.append(word)
    assert not current, f"{current} has no end"
    return found


def whole(words):
    """Return the directives of a file, whose blocks have to be closed, and no more than they."""
    assert words.count("{") == words.count("}")
    left = iter(words)
    found = blocks(left)
    assert not list(left)
    return found


def nginx():
    lines = [re.sub(r"(^|\s)#.*", "", line) for line in read("nginx.conf").splitlines()]
    return whole(re.findall(r'"[^"]*"|[;{}]|[^\s;{}"]+', "\n".join(lines)))


def caddy():
    """Return Caddy's directives: one a line, a block where a line ends with a brace."""
    words = []
    for line in read("Caddyfile").splitlines():
        said = shlex.split(line, comments=True)
        if said:
            words += said if said[-1] in ("{", "}") else [*said, ";"]
    return whole(words)


def inside(directives, *path):
    """Return the directives inside the one that has these words, at each step."""
    for words in path:
        [directives] = [inner for said, inner in directives if said == words.split()]
    return directives


def value(directives, *words):
    """Return what follows these words in the one directive that begins with them."""
    [rest] = [said[len(words) :] for said, _ in directives if tuple(said[: len(words)]) == words]
    return rest


def commands():
    """Return each `hoidap …` of the examples: where it stands → its words."""
    found = {"hoidap.service": unit("hoidap.service")["ExecStart"][0].split()[1:]}
    docker = dict(instructions())
    found["Dockerfile"] = json.loads(docker["ENTRYPOINT"])[1:] + json.loads(docker["CMD"])
    for page in (FOLDER / "README.md", FOLDER.parent / "webhook" / "README.md"):
        text = page.read_text(encoding="utf-8")
        said = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"`(hoidap keys .*?)`", text))
        for line in joined(said):
            if match := re.search(r"\bhoidap ((?:serve|keys) .*)", line):
                found[f"{page.parent.name}/README.md: {match[1][:60]}"] = shlex.split(match[1], comments=True)
    return found


def parsed(words):
    """Return the options of a command, as the command line reads them."""
    verb, *rest = words
    return typer.main.get_command(app).commands[verb].make_context(verb, list(rest)).params


def settings_of(words):
    options = parsed(words)
    names = ("allowed_host", "allowed_origin")
    return Settings(options["host"], options["port"], *(tuple(options[name] or ()) for name in names))


SERVED = {where: words for where, words in commands().items() if words[0] == "serve"}


@pytest.mark.parametrize("where", commands())
def test_every_command_is_one_that_hoidap_takes(where):
    parsed(commands()[where])


def test_a_command_with_an_option_that_is_none_is_found():
    assert {"serve", "keys"} == {words[0] for words in commands().values()}
    with pytest.raises(Exception, match="--allowed-hots"):
        parsed([*SERVED["hoidap.service"], "--allowed-hots", NAME])


@pytest.mark.parametrize("where", SERVED)
def test_the_proxies_name_is_allowed_and_their_port_is_listened_at(where):
    settings = settings_of(SERVED[where])
    plain, secure = nginx_servers()
    assert value(secure, "server_name") == value(plain, "server_name") == [NAME]
    assert NAME in settings.hosts
    assert not settings.is_private  # or who comes by the proxy could ask /v1 without a key
    assert value(inside(nginx(), "upstream hoidap"), "server") == [f"127.0.0.1:{settings.port}"]
    assert value(inside(caddy(), NAME, "handle"), "reverse_proxy") == [f"127.0.0.1:{settings.port}"]
    settings.refuse_open(has_key=True, store=Path("x"))
    if not settings.is_loopback:
        with pytest.raises(RecipeError):
            settings.refuse_open(has_key=False, store=Path("x"))


def nginx_servers():
    return [inner for said, inner in nginx() if said == ["server"]]


def webhook():
    """Return the numbers of the webhook's module."""
    text = (FOLDER.parent / "webhook" / "webhook.py").read_text(encoding="utf-8")
    return int(
        re.search(r"^PORT = (\d+)", text, re.MULTILINE)[1]
    ), 1024 * 1024 if "_MOST_BODY = 1024 * 1024\n" in text else 0


def test_the_platforms_reach_the_webhook_and_nothing_else():
    port, most = webhook()
    [(where, outside)] = [(said, inner) for said, inner in nginx_servers()[1] if said[:2] == ["location", "~"]]
    assert [bool(re.search(where[2], path)) for path in ("/zalo", "/messenger", "/zalo/x", "/health")] == [
        True,
        True,
        False,
        False,
    ]
    assert value(outside, "proxy_pass") == [f"http://127.0.0.1:{port}"]
    assert size(value(outside, "client_max_body_size")[0]) == most
    site = inside(caddy(), NAME)
    assert value(site, "@webhook", "path") == ["/zalo", "/messenger"]
    assert value(inside(site, "handle @webhook"), "reverse_proxy") == [f"127.0.0.1:{port}"]
    assert size(value(inside(site, "handle @webhook", "request_body"), "max_size")[0]) == most


def size(text):
    number, name = re.fullmatch(r"(\d+)(\w+)", text).groups()
    return int(number) * BYTES[name]


def seconds(text):
    return float(re.fullmatch(r"(\d+)s", text)[1])


def test_the_proxies_limits_fit_the_server_s():
    mine, secure = Settings(), nginx_servers()[1]
    front = inside(secure, "location /")
    back = inside(caddy(), NAME, "handle", "reverse_proxy 127.0.0.1:8000")
    assert size(value(secure, "client_max_body_size")[0]) == mine.body_bytes
    assert size(value(inside(caddy(), NAME, "handle", "request_body"), "max_size")[0]) == mine.body_bytes
    waits = [value(front, "proxy_read_timeout"), value(inside(back, "transport http"), "response_header_timeout")]
    assert all(seconds(wait) > mine.answer_seconds + 20 for [wait] in waits)
    # What the server closes as idle must not be what a proxy sends the next question over.
    idle = [
        value(inside(nginx(), "upstream hoidap"), "keepalive_timeout"),
        value(inside(back, "transport http"), "keepalive"),
    ]
    assert all(seconds(wait) < server._IDLE_SECONDS for [wait] in idle)
    ends = [unit(name)["TimeoutStopSec"][0] for name in UNITS] + re.findall(r"--stop-timeout (\d+)", read("README.md"))
    assert len(ends) == 3
    assert all(float(end) > mine.drain_seconds + server._CLOSING_SECONDS for end in ends)


def test_answers_are_streamed_and_visitors_told_apart():
    secure = nginx_servers()[1]
    front = inside(secure, "location /")
    assert value(front, "proxy_buffering") == ["off"]
    assert value(front, "proxy_next_upstream") == ["off"]
    assert value(front, "limit_req")[0] == "zone=hoidap_requests"
    assert value(secure, "proxy_set_header", "Host") == ["$host"]
    assert value(secure, "proxy_set_header", "X-Forwarded-For") == ["$remote_addr"]  # not $proxy_add_…: clients write there
    assert not [said for said, _ in front if said[0] == "proxy_set_header"]  # one here would undo those outside
    back = inside(caddy(), NAME, "handle", "reverse_proxy 127.0.0.1:8000")
    assert value(back, "flush_interval") == ["-1"]
    assert not {said[0] for said, _ in back} & {"header_up", "trusted_proxies"}


def test_the_figures_stay_inside():
    assert value(inside(nginx_servers()[1], "location /metrics"), "return") == ["404"]
    assert value(inside(caddy(), NAME, "handle /metrics*"), "respond") == ["404"]
    # A bare `respond` would come after every `handle`, and so never.
    assert "respond" not in {said[0] for said, _ in inside(caddy(), NAME)}


def test_a_server_behind_the_proxies_answers_to_their_name_and_tells_visitors_apart(tmp_path):
    settings = settings_of(SERVED["hoidap.service"])
    allowed = {"allowed_hosts": settings.allowed_hosts, "allowed_origins": settings.allowed_origins}
    with serving(tmp_path, [bots(FakeEngine())], requests_a_minute=2, **allowed) as served:

        def ask(path, who, host=NAME):
            lines = [f"GET {path} HTTP/1.1", f"Host: {host}", f"X-Forwarded-For: {who}", "X-Forwarded-Proto: https"]
            got = served.raw("\r\n".join([*lines, "Connection: close", "", ""]).encode())
            return int(got.split(b" ", 2)[1])

        assert ask("/health", "198.51.100.1") == 200
        assert ask("/health", "198.51.100.1", "evil.example") == 421
        assert [ask("/api/site", "198.51.100.1") for _ in range(2)] == [200, 429]
        assert ask("/api/site", "198.51.100.2") == 200
        assert ask("/v1/models", "198.51.100.3") == 401


@pytest.mark.parametrize("name", UNITS)
def test_the_units_are_shut_in(name):
    found = unit(name)
    on = "NoNewPrivileges ProtectHome PrivateTmp PrivateDevices PrivateUsers ProtectClock ProtectControlGroups "
    on += "ProtectHostname ProtectKernelLogs ProtectKernelModules ProtectKernelTunables LockPersonality RestrictNamespaces"
    assert {option for option in on.split() if found.get(option) != ["yes"]} == set()
    assert (found["ProtectSystem"], found["CapabilityBoundingSet"], found["UMask"]) == (["strict"], [""], ["0077"])
    assert found["SystemCallFilter"] == ["@system-service"]
    assert found.get("User", ["root"]) == ["hoidap"] or found["DynamicUser"] == ["yes"]
    assert not [key for key in found if key.startswith("Environment") and key != "EnvironmentFile"]


def test_a_unit_can_write_what_the_server_writes_and_reaches_no_other_machine():
    found, options = unit("hoidap.service"), parsed(SERVED["hoidap.service"])
    home = Path("/var/lib") / found["StateDirectory"][0]
    assert home in options["store"].parents
    assert all(home in run.parents for run in options["runs"])  # corrections are kept in the run's folder
    assert (found["IPAddressDeny"], found["IPAddressAllow"]) == (["any"], ["localhost"])
    token = re.search(r"ZALO_TOKEN_FILE=(\S+)", read("hoidap-webhook.service"))[1]
    assert Path(token).parent == Path("/var/lib") / unit("hoidap-webhook.service")["StateDirectory"][0]
    assert "IPAddressDeny" not in unit("hoidap-webhook.service")


def test_the_image_has_no_root_a_health_check_and_what_its_build_takes():
    said = instructions()
    last = len(said) - 1 - [name for name, _ in reversed(said)].index("FROM")
    names = [name for name, _ in said[last:]]
    assert names.index("USER") < names.index("CMD")
    assert dict(said)["USER"] == "hoidap"
    assert dict(said)["VOLUME"] == str(parsed(SERVED["Dockerfile"])["store"].parent)
    url = re.search(r"http://(\w+):(\d+)(/\w+)", dict(said)["HEALTHCHECK"])
    settings = settings_of(SERVED["Dockerfile"])
    assert url[1] in settings.hosts
    assert (int(url[2]), url[3]) == (settings.port, "/health")
    assert dict(said)["EXPOSE"] == url[2]
    copied = {source for name, rest in said if name == "COPY" and "--from" not in rest for source in rest.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    assert copied >= needed | set(wheel["packages"]) | set(wheel["force-include"])
    pinned = re.search(r"^torch==\S+", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)[0]
    assert [rest.split()[-1] for name, rest in said if name == "RUN" and "TORCH_INDEX" in rest] == [pinned]
    assert {rest.split()[0] for name, rest in said if name == "FROM"} == {"python:3.12-slim"}


def test_the_container_is_published_to_this_machine_alone():
    [line] = [line for line in joined(read("README.md")) if "docker run --detach" in line]
    words = shlex.split(line)
    assert words[words.index("--publish") + 1].startswith("127.0.0.1:")
    assert {"--read-only", "--cap-drop", "no-new-privileges"} <= set(words)


def test_the_page_names_every_file():
    page = read("README.md")
    names = {file.name for file in FOLDER.iterdir()}
    assert names >= {"Caddyfile", "nginx.conf", "Dockerfile", *UNITS}
    assert {name for name in names if f"`{name}`" not in page} == {"README.md"}


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def needs(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not here")


@needs("systemd-analyze")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_reads_the_units(tmp_path, name):
    file = tmp_path / name
    file.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", read(name), flags=re.MULTILINE), encoding="utf-8")
    assert not run("systemd-analyze", "verify", "--man=no", str(file)).strip()
    run("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", str(file))


@needs("caddy")
def test_caddy_reads_its_file():
    run("caddy", "validate", "--adapter", "caddyfile", "--config", str(FOLDER / "Caddyfile"))


@needs("nginx", "openssl")
def test_nginx_reads_its_file(tmp_path):
    pair = [str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")]
    named = ["-subj", f"/CN={NAME}", "-keyout", pair[0], "-out", pair[1]]
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *named)
    text = re.sub(r"(ssl_certificate_key) \S+;", rf"\1 {pair[0]};", read("nginx.conf"))
    (tmp_path / "site.conf").write_text(re.sub(r"(ssl_certificate) \S+;", rf"\1 {pair[1]};", text), encoding="utf-8")
    outer = f"pid {tmp_path}/pid; error_log stderr; events {{}}\nhttp {{ access_log off; include site.conf;"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    outer += "".join(f" {kind}_temp_path {tmp_path}/{kind};" for kind in kinds) + " }\n"
    (tmp_path / "nginx.conf").write_text(outer, encoding="utf-8")
    run("nginx", "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"))
