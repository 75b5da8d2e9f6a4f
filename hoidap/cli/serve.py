"""The commands of a server: serve, keys."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hoidap.cli.options import BaseFolder, Device, Download, DType
from hoidap.cli.terminal import note, write

if TYPE_CHECKING:
    from hoidap.serve.keys import Keys
    from hoidap.serve.settings import Settings

StoreFile = Annotated[
    Path, typer.Option("--store", help="The file that keeps what was asked, and the keys; made if it is not there.")
]
_STORE = Path("hoidap.sqlite3")


def serve(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders; each is a bot of its folder's name.")],
    host: Annotated[
        str, typer.Option(help="The address to listen at; any but this machine's own needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0: a free one.", min=0, max=65535)] = 8000,
    store: StoreFile = _STORE,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="A name that browsers reach it by, such as chat.shop.vn; may be repeated.")
    ] = None,
    allowed_origin: Annotated[
        list[str] | None, typer.Option(help="A site that may embed the chat, such as https://shop.vn; may be repeated.")
    ] = None,
    keep_days: Annotated[int, typer.Option(help="Days that what was asked is kept; 0: for ever.", min=0)] = 180,
    gguf: Annotated[
        Path | None,
        typer.Option(help="Answer with this file, as `hoidap export` wrote it, on the CPU; see docs/export.md."),
    ] = None,
    base: BaseFolder = None,
    device: Device = None,
    dtype: DType = None,
    download: Download = False,
) -> None:
    """Serve bots: a chat page, a page for their owner, and an API that OpenAI's clients speak.

    Ctrl-C (or SIGTERM) stops it: what is being answered is finished first.
    """
    from rich.console import Console

    from hoidap.serve.app import make_app
    from hoidap.serve.desk import Desk
    from hoidap.serve.fleet import open_runs, plan
    from hoidap.serve.keys import Keys
    from hoidap.serve.server import bind, make_server
    from hoidap.serve.settings import Settings
    from hoidap.serve.store import Store

    days = keep_days or None
    settings = Settings(host, port, tuple(allowed_host or ()), tuple(allowed_origin or ()), keep_days=days)
    opened = open_runs(runs)
    kept = Store.open(store, keep_days=days)
    try:
        settings.refuse_open(has_key=Keys(kept).exist(), store=store)
        listener = bind(settings)
        where = {"base": base, "device": device, "dtype": dtype, "download": download}
        desk = Desk(plan(opened, gguf=gguf, console=Console(stderr=True), **where), most=settings.queue)
        desk.start()
        try:
            _announce(settings, listener.getsockname()[1], store, Keys(kept))
            make_server(make_app(settings, desk, kept, opened), settings, desk).run([listener])
        finally:
            desk.close()
    finally:
        kept.close()


def keys(
    store: StoreFile = _STORE,
    add: Annotated[str | None, typer.Option(metavar="NAME", help="Make a key, and print it this once.")] = None,
    role: Annotated[
        Literal["chat", "owner"], typer.Option(help="What the new key may: ask the bots, or the owner's pages too.")
    ] = "chat",
    revoke: Annotated[str | None, typer.Option(metavar="ID", help="Delete the key of this id.")] = None,
) -> None:
    """List the keys of a server, make one, or revoke one; a running server heeds it at once."""
    from hoidap.errors import RequestError
    from hoidap.serve.keys import Keys
    from hoidap.serve.store import Store

    kept: Store = Store.open(store)
    try:
        found = Keys(kept)
        if add is not None:
            text, key = found.make(add, role)
            write(text + "\n")
            note(f"the key {key.id} of {key.name!r}, role {key.role}: keep it now, it is shown this once")
        if revoke is not None and not found.revoke(revoke):
            msg = f"there is no key of the id {revoke!r}; `hoidap keys --store {store}` lists them"
            raise RequestError(msg)
        if add is None and revoke is None:
            for key in found.all():
                write(f"{key.id}  {key.role:5}  {key.name}\n")
    finally:
        kept.close()


def _announce(settings: "Settings", port: int, store: Path, kept: "Keys") -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    at = f"http://{host}:{port}"
    note(f"the chat     {at}/")
    note(
        f"the owner's  {at}/owner"
        + ("" if any(key.role == "owner" for key in kept.all()) else "  (needs a key: see below)")
    )
    note(f"the API      {at}/v1" + ("" if settings.is_private and not kept.exist() else "  (by key)"))
    days = "for ever" if settings.keep_days is None else f"for {settings.keep_days:g} days"
    note(f"what is asked is kept in {store}, {days}; corrections in the run's folder")
    if not any(key.role == "owner" for key in kept.all()):
        note(f"to sign in as the owner: hoidap keys --store {store} --add NAME --role owner")
