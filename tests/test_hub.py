"""Models of the hub, from a hub on the loopback: what is asked for, what is kept, and every way in which it goes wrong."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from fake_hub import FakeHub, git_sha1, serve
from huggingface_hub import close_session, constants
from rich.console import Console
from rich.filesize import decimal
from safetensors.torch import load, save
from tiny_run import ITEMS, LORA, make_base, write_csv

from hoidap import download as download_module
from hoidap import hub as hub_module
from hoidap.base import MINI_FOLDER, Base, find_base, load_model
from hoidap.bot import load as load_bot
from hoidap.errors import CheckpointError
from hoidap.hub import parse_hub_id
from hoidap.infer.engine import Sampling
from hoidap.run import Run
from hoidap.training.job import train

REPO = "shop/tiny"
CPU = torch.device("cpu")
WEIGHTS = "model.safetensors"
NEEDED = ["config.json", "tokenizer.json", WEIGHTS]
IDS = torch.arange(20).reshape(2, 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return Path(make_base(tmp_path_factory.mktemp("base") / "tiny").name)


@pytest.fixture(scope="module")
def files(folder) -> dict[str, bytes]:
    """What a repository holds, more than is needed."""
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    return content | {
        "README.md": b"# tiny",
        "modeling_mpt.py": b"raise SystemExit",
        "configuration_mpt.py": b"raise SystemExit",
        "pytorch_model.bin": b"a pickle",
        "onnx/model.safetensors": b"another",
    }


@pytest.fixture
def hub(files, tmp_path, monkeypatch):
    """Serve a repository to a machine whose cache is empty; nobody is logged in."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("HF_", "HUGGING_FACE_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(download_module, "_PAUSES_S", (0.0,) * 4)
    close_session()
    with serve(FakeHub(REPO)) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        url = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        served.commit(files)
        yield served
        close_session()


@pytest.fixture
def unreachable(hub, monkeypatch):
    """Take the hub away; what it was asked is still known."""

    def take_away() -> FakeHub:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        hub.requests.clear()
        return hub

    return take_away


def refusal(name: str = REPO, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        find_base(name, **options)
    return str(caught.value)


def logits(base: Base) -> torch.Tensor:
    return base.load(quantize="none", device=CPU, dtype=torch.float32).forward(IDS)


def cache() -> Path:
    return Path(constants.HF_HUB_CACHE) / "models--shop--tiny"


def blobs() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (cache() / "blobs").iterdir()}


def names(requests) -> list[str]:
    return [request.name for request in requests]


def in_shards(files: dict[str, bytes], suffix: str) -> dict[str, bytes]:
    """Return a repository whose weights are in two shards and their index."""
    tensors = load(files[WEIGHTS])
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    made = {name: content for name, content in files.items() if name not in {WEIGHTS, "pytorch_model.bin"}}
    weight_map = {}
    for n in range(2):
        part = {name: tensor for at, (name, tensor) in enumerate(tensors.items()) if at % 2 == n}
        shard = f"{stem}-{n + 1:05}-of-00002.{suffix}"
        made[shard] = save(part, metadata={"format": "pt"}) if suffix == "safetensors" else pickled(part)
        weight_map |= dict.fromkeys(part, shard)
    return made | {f"{stem}.{suffix}.index.json": json.dumps({"weight_map": weight_map}).encode()}


def pickled(tensors: dict[str, torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


def with_index(files: dict[str, bytes], weight_map: object) -> dict[str, bytes]:
    made = {name: content for name, content in files.items() if name not in {WEIGHTS, "pytorch_model.bin"}}
    return made | {f"{WEIGHTS}.index.json": json.dumps({"weight_map": weight_map}).encode()}


# What is had


def test_a_model_of_the_hub_computes_what_its_folder_does(hub, folder):
    base = find_base(REPO)
    assert torch.equal(logits(base), logits(find_base(str(folder))))
    assert torch.equal(load_model(REPO, device="cpu", dtype="float32").forward(IDS), logits(base))
    assert sorted(names(hub.asked())) == sorted(NEEDED), (
        "no code, no second set of weights, nothing in folders, nothing twice"
    )


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_of_the_hub_compute_what_the_one_file_does(suffix, hub, files, folder):
    hub.commit(in_shards(files, suffix))
    base = find_base(REPO)
    assert torch.equal(logits(base), logits(find_base(str(folder))))
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    shards = [f"{stem}-{n:05}-of-00002.{suffix}" for n in (1, 2)]
    assert [path.name for path in base.files()] == ["tokenizer.json", "config.json", *shards]
    assert sorted(names(hub.asked())) == sorted(["config.json", "tokenizer.json", f"{stem}.{suffix}.index.json", *shards])


def test_a_pickle_is_taken_where_there_is_no_safetensors(hub, files, folder):
    made = {name: content for name, content in files.items() if name != WEIGHTS}
    hub.commit(made | {"pytorch_model.bin": pickled(load(files[WEIGHTS]))})
    assert torch.equal(logits(find_base(REPO)), logits(find_base(str(folder))))
    assert names(hub.asked(".bin")) == ["pytorch_model.bin"]


def test_what_other_tools_read_beside_the_model_comes_too(hub, files):
    hub.commit(files | {"tokenizer_config.json": b"{}", "generation_config.json": b'{"eos_token_id": 2}'})
    base = find_base(REPO)
    assert (base.folder / "tokenizer_config.json").read_bytes() == b"{}"
    assert (base.folder / "generation_config.json").read_bytes() == b'{"eos_token_id": 2}'


@pytest.mark.usefixtures("hub")
def test_names_and_sizes_are_those_of_the_files_and_not_of_links(folder):
    base = find_base(REPO)
    assert (base.folder / WEIGHTS).is_symlink()
    local = find_base(str(folder))
    assert [path.name for path in base.files()] == [path.name for path in local.files()]
    assert base.prints() == local.prints()
    assert base.changed_since(local.prints()) == []


def test_the_cache_is_that_of_the_hubs_other_tools(hub, files):
    commit = hub.branches["main"]
    base = find_base(REPO)
    for name in NEEDED:
        path = huggingface_hub.hf_hub_download(REPO, name, local_files_only=True)
        assert Path(path) == base.folder / name
        assert Path(path).read_bytes() == files[name]
    found = huggingface_hub.scan_cache_dir(constants.HF_HUB_CACHE)
    assert not found.warnings
    (repo,) = found.repos
    (revision,) = repo.revisions
    assert (repo.repo_id, revision.commit_hash, revision.refs, len(revision.files)) == (REPO, commit, {"main"}, 3)
    assert set(blobs()) == {hashlib.sha256(files[WEIGHTS]).hexdigest(), *(git_sha1(files[name]) for name in NEEDED[:2])}


def test_what_another_tool_has_fetched_is_not_fetched_again(hub):
    for name in NEEDED:
        huggingface_hub.hf_hub_download(REPO, name)
    hub.requests.clear()
    find_base(REPO)
    assert hub.asked() == []


def test_a_model_that_another_tool_has_whole_is_not_fetched_in_another_format(hub, files, folder):
    hub.commit(files | {"pytorch_model.bin": pickled(load(files[WEIGHTS]))})
    for name in ("config.json", "tokenizer.json", "pytorch_model.bin"):
        huggingface_hub.hf_hub_download(REPO, name)
    hub.requests.clear()
    assert torch.equal(logits(find_base(REPO)), logits(find_base(str(folder))))
    assert hub.asked() == []


def test_a_folder_of_that_name_comes_first(hub, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    shutil.copytree(folder, tmp_path / REPO)
    base = find_base(REPO)
    assert base.name == str(tmp_path / REPO) == str(base.folder)
    assert hub.requests == []


def test_mini_is_the_one_that_ships_even_beside_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "mini").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_base("mini").folder == MINI_FOLDER


@pytest.mark.parametrize(
    ("name", "repo", "revision"),
    [
        ("vinai/PhoGPT-4B-Chat", "vinai/PhoGPT-4B-Chat", "main"),
        ("vinai/PhoGPT-4B@v1.0", "vinai/PhoGPT-4B", "v1.0"),
        ("a/b@refs/pr/1", "a/b", "refs/pr/1"),
    ],
)
def test_a_hub_id_is_owner_name_and_revision(name, repo, revision):
    hub_id = parse_hub_id(name)
    assert hub_id
    assert (hub_id.repo, hub_id.revision) == (repo, revision)


@pytest.mark.parametrize(
    "name",
    [
        "tiny", "a/b/c", "./a", "../a", "/a", "a/", "/a/b", "a/..", "a/b@", "a/b@..", "a/b@../../x", "a/b@/x", "a/b@x/",
        "a/b@x/../../y", "a..b/c", "a--b/c", "a/b.git", "a b/c", "a/b\n", "a\\b/c", "a/b@x\\y", "-a/b", "a/.b",
        "a/" + "b" * 97, "ạ/b", "",
    ],
)  # fmt: skip
def test_a_name_that_is_no_hub_id_is_not_asked_for(name, hub):
    assert parse_hub_id(name) is None
    with pytest.raises(
        CheckpointError, match=r"takes .mini., a model folder, or a model of the hub as owner/name or owner/name@rev"
    ):
        find_base(name or "nothing")
    assert hub.requests == []


# Commits


def test_a_name_is_recorded_with_its_full_commit(hub):
    first = hub.branches["main"]
    assert find_base(REPO).name == f"{REPO}@{first}"
    assert find_base(f"{REPO}@main").name == f"{REPO}@{first}"
    assert find_base(f"{REPO}@{first}").name == f"{REPO}@{first}"


def test_a_branch_that_moves_leaves_the_pinned_commit_as_it_was(hub, files):
    old = find_base(REPO)
    before = logits(old)
    tensors = {name: tensor + 1 for name, tensor in load(files[WEIGHTS]).items()}
    new_commit = hub.commit(files | {WEIGHTS: save(tensors, metadata={"format": "pt"})})
    new = find_base(REPO)
    assert new.name == f"{REPO}@{new_commit}"
    assert not torch.equal(logits(new), before)
    hub.requests.clear()
    assert torch.equal(logits(find_base(old.name)), before)
    assert hub.requests == [], "a commit that is whole in the cache needs no network"


def test_a_commit_that_changes_no_weights_fetches_none(hub, files):
    find_base(REPO)
    hub.requests.clear()
    commit = hub.commit(files | {"config.json": files["config.json"] + b"\n"})
    assert find_base(REPO).name.endswith(commit)
    assert names(hub.asked()) == ["config.json"]


def test_a_tag_and_another_branch_are_revisions(hub, files):
    first = hub.branches["main"]
    hub.branches["v1"] = first
    hub.commit(files | {"config.json": b"{}"})
    other = hub.commit(files, branch="refs/pr/1")
    assert find_base(f"{REPO}@v1").name == f"{REPO}@{first}"
    assert find_base(f"{REPO}@refs/pr/1").name == f"{REPO}@{other}"


def test_a_second_look_asks_only_what_the_branch_means(hub):
    find_base(REPO)
    hub.requests.clear()
    find_base(REPO)
    assert [request.path.split("?")[0] for request in hub.requests] == [f"/api/models/{REPO}/revision/main"]


# Without the network


def test_a_pinned_commit_needs_no_hub(unreachable):
    base = find_base(REPO)
    unreachable()
    said = io.StringIO()
    assert find_base(base.name, console=Console(file=said)) == base
    assert said.getvalue() == ""


def test_without_the_hub_a_branch_is_what_it_last_meant(unreachable):
    base = find_base(REPO)
    unreachable()
    said = io.StringIO()
    assert find_base(REPO, console=Console(file=said)) == base
    assert "http://127.0.0.1:9 cannot be reached (ConnectError: [Errno 111]" in said.getvalue()
    assert said.getvalue().endswith(f"; {base.name} is in the cache and is taken\n")


def test_offline_mode_takes_the_cache(hub, monkeypatch):
    base = find_base(REPO)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = io.StringIO()
    assert find_base(REPO, console=Console(file=said)) == base
    assert said.getvalue() == f"HF_HUB_OFFLINE forbids to ask the hub; {base.name} is in the cache and is taken\n"
    assert hub.requests == []


def test_a_hub_that_is_down_or_has_lost_the_model_does_not_take_the_cached_one_away(hub):
    base = find_base(REPO)
    for status in (500, 404):
        hub.statuses = [status]
        assert find_base(REPO) == base


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", [REPO, f"{REPO}@v1"])
def test_offline_mode_without_the_model_says_how_to_get_it(name, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    revision = " --revision v1" if "@" in name else ""
    assert f"unset it, or elsewhere `hf download {REPO}{revision} --local-dir tiny` and pass that folder" in refusal(name)


def test_no_network_and_no_model_names_the_endpoint(unreachable):
    unreachable()
    message = refusal()
    assert message.startswith(f"--model {REPO}@main: http://127.0.0.1:9 cannot be reached (ConnectError: ")
    assert f"check the network and HF_ENDPOINT, or elsewhere `hf download {REPO} --local-dir tiny`" in message


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("endpoint", ["127.0.0.1:9", "http://[", "ftp://x", "http://a b"])
def test_an_endpoint_that_is_none_is_named(endpoint, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    assert endpoint in refusal()


def test_half_a_model_in_the_cache_is_not_taken_for_one(unreachable):
    (find_base(REPO).folder / WEIGHTS).unlink()
    unreachable()
    assert "cannot be reached" in refusal()


@pytest.mark.parametrize("moved", [False, True])
def test_a_link_to_a_blob_that_is_gone_is_made_again(moved, hub, files):
    path = find_base(REPO).folder / WEIGHTS
    path.resolve().unlink()
    if moved:
        path.unlink()
        path.symlink_to("../../gone")
    hub.requests.clear()
    assert (find_base(REPO).folder / WEIGHTS).read_bytes() == files[WEIGHTS]
    assert names(hub.asked()) == [WEIGHTS]


def test_a_run_of_a_hub_model_loads_again_without_the_hub(hub, unreachable, tmp_path):
    data = write_csv(tmp_path / "shop.csv", ITEMS[2:3])
    quiet = Console(quiet=True)
    run = train(data, out=tmp_path / "run", model=REPO, recipe=LORA, device="cpu", console=quiet, max_epochs=2)
    assert run.base_name == Run.open(run.folder).base_name == f"{REPO}@{hub.branches['main']}"
    few = Sampling(max_new_tokens=8)
    answer = load_bot(run.folder, device="cpu").answer("Có nhận thẻ không?", sampling=few)
    hub = unreachable()
    assert load_bot(run.folder, device="cpu").answer("Có nhận thẻ không?", sampling=few) == answer
    assert hub.requests == []


# Who may


def test_a_model_that_is_not_there_or_private_says_so(hub):
    for status, name in ((401, "shop/nothing"), (401, REPO)):
        hub.token = "hf_right"  # noqa: S105
        message = refusal(name)
        assert f"there is no such folder, and {hub.url} has no such model, or a private one ({status})" in message
        assert message.endswith("is the name right? For a private one, `hf auth login`")
    assert hub.asked() == []


@pytest.mark.usefixtures("hub")
def test_a_model_that_is_not_there_for_one_who_is_logged_in(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert "has no such model, or a private one (404)" in refusal("shop/nothing")


def test_a_private_model_is_had_with_the_token(hub, monkeypatch):
    hub.token = "hf_right"  # noqa: S105
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    find_base(REPO)
    assert {request.authorization for request in hub.requests} == {"Bearer hf_right"}


def test_the_token_does_not_go_to_another_host(hub, files, monkeypatch):
    hub.token, hub.redirects = "hf_right", True
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert (find_base(REPO).folder / WEIGHTS).read_bytes() == files[WEIGHTS]
    elsewhere = [request for request in hub.requests if request.host == "localhost"]
    assert names(elsewhere) == [WEIGHTS]
    assert elsewhere[0].authorization is None


@pytest.mark.parametrize("token", ["hf_sécret", "hf_se\x00cret", "hf_se cret"])
def test_no_message_tells_the_token(token, hub, monkeypatch):
    hub.token = "hf_right"  # noqa: S105
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: token)
    message = refusal()
    assert "cret" not in message


def test_a_gated_model_is_refused_before_its_gigabytes_are_spoken_of(hub):
    hub.is_gated = True
    hub.listed = {WEIGHTS: {"lfs": {"size": 10**13, "sha256": "0" * 64, "pointerSize": 1}}}
    message = refusal()
    assert f"{hub.url} gives {REPO} only to those who accepted its conditions (403)" in message
    assert message.endswith(f"open {hub.url}/{REPO} in a browser and accept them, then `hf auth login`")
    assert names(hub.asked()) == ["config.json"]


def test_a_revision_that_is_not_there_is_refused(hub):
    message = refusal(f"{REPO}@v9")
    assert message.startswith(f"--model {REPO}@v9: {hub.url} has no such revision of {REPO}; after the @ comes")
    assert "has no such revision" in refusal(f"{REPO}@{'0' * 40}")


# What breaks off


def test_a_broken_connection_is_taken_up_where_it_broke(hub, files):
    hub.cut_bytes, hub.cuts = 1_000_000, 1
    assert (find_base(REPO).folder / WEIGHTS).read_bytes() == files[WEIGHTS]
    first, second = hub.asked(WEIGHTS)
    assert (first.range, first.sent_bytes) == (None, 1_000_000)
    assert (second.range, second.sent_bytes) == ("bytes=1000000-", len(files[WEIGHTS]) - 1_000_000)


def test_a_download_that_breaks_off_again_and_again_ends_and_the_next_one_goes_on(hub, files):
    hub.cut_at = 1_000_000
    message = refusal()
    size = len(files[WEIGHTS])
    assert f"{WEIGHTS} broke off at 1,000,000 of {size:,} bytes, again and again ({hub.url} cannot be reached" in message
    assert message.endswith("run the same command again: it goes on from there")
    assert len(hub.asked(WEIGHTS)) == 5
    hub.cut_at = None
    hub.requests.clear()
    assert (find_base(REPO).folder / WEIGHTS).read_bytes() == files[WEIGHTS]
    (only,) = hub.asked(WEIGHTS)
    assert (only.range, only.sent_bytes) == ("bytes=1000000-", size - 1_000_000)
    assert names(hub.asked()) == [WEIGHTS]


def test_a_connection_that_breaks_often_but_gets_on_comes_to_its_end(hub, files, monkeypatch):
    hub.cut_bytes = 200_000
    monkeypatch.setattr(download_module, "_HEADWAY_BYTES", 2**30)
    assert "broke off at 1,000,000" in refusal(), "five attempts, if what they got does not count"
    monkeypatch.setattr(download_module, "_HEADWAY_BYTES", 200_000)
    hub.cut_bytes = 50_000
    assert "broke off at 1,250,000" in refusal()
    hub.cut_bytes = 200_000
    assert (find_base(REPO).folder / WEIGHTS).read_bytes() == files[WEIGHTS]


def test_a_server_without_lengths_and_ranges_serves_too(hub, files):
    hub.names_length = hub.knows_ranges = False
    hub.cut_bytes, hub.cuts = 1_000_000, 1
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=150)
    assert (find_base(REPO, console=terminal).folder / WEIGHTS).read_bytes() == files[WEIGHTS]
    assert [request.range for request in hub.asked(WEIGHTS)] == [None, "bytes=1000000-"]
    total = decimal(sum(len(files[name]) for name in NEEDED[1:]))
    assert f"downloading {REPO}: {total} of {total} " in shown.getvalue(), "bytes that came twice count once"
    assert hub.asked(WEIGHTS)[1].sent_bytes == len(files[WEIGHTS])


def test_an_answer_that_ends_early_every_time_without_a_length_is_an_end(hub):
    hub.names_length = False
    hub.cut_at = 0
    assert "config.json broke off at 0 of" in refusal()


@pytest.mark.parametrize("status", [429, 503])
def test_a_file_that_is_refused_for_the_moment_is_asked_for_again(status, hub):
    hub.file_statuses = [status] * 4
    find_base(REPO)
    assert len(hub.asked("config.json")) == 5
    shutil.rmtree(cache())
    hub.file_statuses = [status] * 5
    assert "config.json broke off at 0 of" in refusal()
    assert hub.file_statuses == []


def test_a_file_that_is_refused_for_good_is_asked_for_once(hub):
    hub.file_statuses = [410] * 2
    assert f"{hub.url} answered 410; try again later" in refusal()
    assert hub.file_statuses == [410]


def test_a_second_program_waits_for_the_first(hub):
    hub.chunk_pause_s = 0.002
    found: list[Base] = []
    threads = [threading.Thread(target=lambda: found.append(find_base(REPO))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert sorted(names(hub.asked())) == sorted(NEEDED)
    assert all(name.endswith(".incomplete") is False for name in blobs())


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_program_is_gone_on_with_and_the_environment_is_followed(end, hub, files, tmp_path):
    home = tmp_path / "home"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "hf_right"}
    command = [sys.executable, "-c", f"from hoidap.base import find_base; print(find_base({REPO!r}).name)"]
    hub.chunk_pause_s = 0.02
    blob = home / "hub" / "models--shop--tiny" / "blobs" / f"{hashlib.sha256(files[WEIGHTS]).hexdigest()}.incomplete"
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as program:
        until = time.monotonic() + 60
        while not (blob.is_file() and blob.stat().st_size > 300_000) and time.monotonic() < until:
            time.sleep(0.01)
        program.send_signal(end)
    had = blob.stat().st_size
    assert 300_000 < had < len(files[WEIGHTS])
    hub.chunk_pause_s = 0
    hub.requests.clear()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{REPO}@{hub.branches['main']}\n"
    (only,) = [request for request in hub.asked(WEIGHTS) if request.range]
    assert (only.range, only.sent_bytes) == (f"bytes={had}-", len(files[WEIGHTS]) - had)
    assert only.authorization == "Bearer hf_right"
    hub.requests.clear()
    offline = subprocess.run(command, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=True)
    assert (offline.stdout, hub.requests) == (done.stdout, [])


# What is wrong


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json", "config.json"])
def test_wrong_bytes_are_deleted_and_named(name, hub, files):
    wrong = bytes([files[name][0] ^ 1]) + files[name][1:]
    hub.extra = {name: wrong}
    message = refusal()
    hash_of = {WEIGHTS: lambda content: hashlib.sha256(content).hexdigest()}.get(name, git_sha1)
    assert f"{name} came with the hash {hash_of(wrong)}, the hub's list says {hash_of(files[name])}" in message
    assert message.endswith("it was deleted: download it again")
    assert not [digest for digest in blobs() if digest.startswith(hash_of(files[name]))]
    hub.extra = {}
    assert (find_base(REPO).folder / name).read_bytes() == files[name]


def test_a_part_that_was_spoiled_on_the_disk_is_noticed(hub, files):
    hub.cut_at = 1_000_000
    refusal()
    (part,) = (cache() / "blobs").glob("*.incomplete")
    part.write_bytes(b"x" + part.read_bytes()[1:])
    hub.cut_at = None
    assert "came with the hash" in refusal()
    assert (find_base(REPO).folder / WEIGHTS).read_bytes() == files[WEIGHTS]


@pytest.mark.usefixtures("hub")
def test_a_part_that_is_longer_than_the_file_is_begun_anew(files):
    digest = hashlib.sha256(files[WEIGHTS]).hexdigest()
    (cache() / "blobs").mkdir(parents=True)
    (cache() / "blobs" / f"{digest}.incomplete").write_bytes(files[WEIGHTS] + b"more")
    assert (find_base(REPO).folder / WEIGHTS).read_bytes() == files[WEIGHTS]


@pytest.mark.parametrize("names_length", [True, False])
@pytest.mark.parametrize("page", [b"", b"<html>log in</html>", b"x" * 2**20])
def test_a_page_in_place_of_a_file_is_not_kept(names_length, page, hub, files):
    hub.names_length = names_length
    hub.extra = {"config.json": page or files["config.json"] + b" "}
    message = refusal()
    if names_length:
        found, wanted = len(hub.extra["config.json"]), len(files["config.json"])
        assert f"does not answer as a hub: config.json comes with '{found}' bytes where {wanted} lack" in message
    else:
        assert "does not answer as a hub: config.json has more bytes" in message or "config.json broke off at" in message
    assert not (cache() / "snapshots").exists()
    assert all(len(content) <= len(files["config.json"]) for content in blobs().values()), "no more than was announced"


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"<html>log in</html>", b"[]", b"{}", b"null", b"5", b"[" * 100_000, b"\xff\xfe", b'{"id": "shop/tiny"}',
        b'{"id": "shop/tiny", "sha": 5}', b'{"id": "shop/tiny", "sha": "../../x"}', b'{"id": "shop/tiny", "sha": "main"}',
        b'{"id": "shop/tiny", "sha": "%s", "siblings": 5}' % (b"0" * 40),
        b'{"id": "shop/tiny", "sha": "%s", "siblings": [5]}' % (b"0" * 40),
        b'{"id": "shop/tiny", "sha": "%s", "siblings": [{"rfilename": "config.json"}]}' % (b"0" * 40),
    ],
)  # fmt: skip
def test_an_answer_that_is_no_list_is_refused(answer, hub):
    hub.answer = answer
    assert f"--model {REPO}@main: {hub.url} does not answer as a hub: " in refusal()
    assert not cache().exists()


@pytest.mark.parametrize(
    "told",
    [
        {"size": -1}, {"size": "5"}, {"size": None}, {"size": 2**60}, {"size": 1.5}, {"blobId": None}, {"blobId": "../x"},
        {"blobId": "0" * 39}, {"blobId": "0" * 64}, {"blobId": 5}, {"lfs": {"size": 5}}, {"lfs": 5},
        {"lfs": {"size": 5, "sha256": "0" * 40, "pointerSize": 1}}, {"lfs": {"size": 5, "sha256": "..", "pointerSize": 1}},
    ],
    ids=str,
)  # fmt: skip
def test_a_listed_file_without_a_size_and_a_hash_is_refused(told, hub):
    hub.listed = {"config.json": told}
    assert "does not answer as a hub: its list of files cannot be read" in refusal()
    assert hub.asked() == []


def test_a_commit_that_is_another_is_refused(hub, files):
    commit = hub.branches["main"]
    other = hub.commit(files, branch="other")
    hub.answer = hub.list_of(other)
    assert f"it calls the commit '{other}'" in refusal(f"{REPO}@{commit}")


# What is refused unasked


def huge(n_bytes: int) -> dict[str, dict[str, object]]:
    return {WEIGHTS: {"lfs": {"size": n_bytes, "sha256": "0" * 64, "pointerSize": 1}}}


@pytest.fixture
def disk(monkeypatch):
    """Say how much of the disk is free."""

    def has(free_bytes: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(2**50, 0, free_bytes))

    has(2 * 10**12)
    return has


def test_gigabytes_are_not_downloaded_unasked(hub, files, disk):
    hub.listed = huge(7_380_000_000)
    disk(58_000_000_000)
    total = (7_380_000_000 + len(files["tokenizer.json"])) / 1e9
    assert refusal() == (
        f"--model {REPO}@{hub.branches['main']} would download 2 files, {total:.1f} GB, into {cache()}, "
        "where 58.0 GB are free; add --download to do it, in Python download=True"
    )
    assert names(hub.asked()) == ["config.json"]


@pytest.mark.usefixtures("disk")
def test_the_question_begins_at_a_gigabyte(hub, files):
    rest = len(files["tokenizer.json"])
    hub.listed = huge(10**9 - rest)
    assert "would download" in refusal()
    hub.listed = huge(10**9 - rest - 1)
    hub.cut_at = 0
    assert "broke off" in refusal(), "it began"


@pytest.mark.usefixtures("hub", "disk")
def test_what_was_asked_for_is_downloaded(monkeypatch):
    monkeypatch.setattr(hub_module, "_ASK_FROM_BYTES", 1000)
    assert "would download" in refusal()
    with pytest.raises(CheckpointError, match="would download"):
        load_model(REPO, device="cpu")
    load_model(REPO, download=True, device="cpu")
    find_base(REPO)


@pytest.mark.usefixtures("disk")
def test_a_branch_that_moved_to_gigabytes_offers_what_is_there(hub, files, unreachable):
    old = find_base(REPO)
    hub.commit(files | {WEIGHTS: b"new"})
    hub.listed = huge(10**10)
    assert refusal().endswith(f"in Python download=True; or pass {old.name}, which is in the cache")
    unreachable()
    assert find_base(REPO) == old, "what was not had does not take the place of what was"


def test_a_disk_that_is_too_small_is_named_before_anything_comes(hub, disk):
    hub.listed = huge(7_380_000_000)
    disk(5_000_000_000)
    message = refusal(download=True)
    assert "takes 2 files, 7.4 GB, into " in message
    assert message.endswith("where 5.0 GB are free; make room, or choose another disk with HF_HOME")
    assert hub.asked(WEIGHTS) == []


def test_what_came_before_counts(hub, files, disk, monkeypatch):
    hub.cut_at = 1_000_000
    refusal()
    hub.cut_at = None
    monkeypatch.setattr(hub_module, "_ASK_FROM_BYTES", len(files[WEIGHTS]) - 1_000_000 + 1)
    disk(len(files[WEIGHTS]) - 1_000_000)
    find_base(REPO)


def test_a_model_that_cannot_be_computed_is_refused_before_its_gigabytes(hub, files):
    hub.commit(files | {"config.json": files["config.json"].replace(b'"mpt"', b'"llama"')})
    hub.listed = huge(10**10)
    assert "hoidap cannot compute this model exactly: model_type is 'llama'" in refusal()
    assert names(hub.asked()) == ["config.json"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_repository_that_lacks_a_file_says_what_it_has(name, hub, files):
    commit = hub.commit({n: content for n, content in files.items() if n != name} | {"a\x1b[2Jb": b""})
    message = refusal()
    assert message.startswith(f"--model {REPO}@{commit} lacks {name}; it holds 'README.md', 'a\\x1b[2Jb', ")
    assert hub.asked() == []


def test_a_repository_without_weights_says_what_it_has(hub, files):
    hub.commit({name: files[name] for name in ("config.json", "tokenizer.json")} | {"model.gguf": b"gg"})
    assert "lacks model.safetensors or pytorch_model.bin; it holds 'config.json', 'model.gguf', 'tok" in refusal()


@pytest.mark.parametrize(("name", "most"), [("config.json", 2**20), ("tokenizer.json", 2**26)])
def test_a_json_file_beyond_measure_is_not_fetched(name, most, hub):
    hub.listed = {name: {"size": most + 1}}
    assert f"{name} has {most + 1:,} bytes, and at most {most:,} are read" in refusal()
    assert name not in names(hub.asked())


def test_an_index_beyond_measure_is_not_fetched(hub, files):
    hub.commit(in_shards(files, "safetensors"))
    hub.listed = {f"{WEIGHTS}.index.json": {"size": 2**26 + 1}}
    assert f"{WEIGHTS}.index.json has 67,108,865 bytes" in refusal()
    assert names(hub.asked()) == ["config.json"]


@pytest.mark.parametrize(
    "shard",
    [
        "../model.safetensors", "/etc/x.safetensors", "a/b.safetensors", "a\\b.safetensors", "..safetensors",
        "a..safetensors", "modeling_mpt.py", "x.bin", "x.safetensors.py", ".safetensors", "x.safetensors\n",
        "x y.safetensors", "C:x.safetensors", "%2e%2e%2fx.safetensors", "\x00.safetensors", "x?.safetensors", "",
    ],
)  # fmt: skip
def test_a_shard_of_a_strange_name_is_not_asked_for(shard, hub, files):
    hub.commit(with_index(files, {"a": shard, "b": "model-1.safetensors"}) | {shard: b"x", "model-1.safetensors": b"y"})
    assert f"that are no plain .safetensors files: {[shard]!r}" in refusal()
    assert names(hub.asked()) == ["config.json", f"{WEIGHTS}.index.json"]


def test_a_shard_that_the_repository_lacks_is_named(hub, files):
    hub.commit(with_index(files, {"a": "model-1.safetensors"}))
    assert "that the repository lacks: ['model-1.safetensors']" in refusal()


@pytest.mark.parametrize("weight_map", [{}, [], None, 5, {"a": 5}, {"a": ["b"]}, {"a": None}])
def test_an_index_that_is_none_is_refused(weight_map, hub, files):
    hub.commit(with_index(files, weight_map))
    message = refusal()
    assert f"{WEIGHTS}.index.json is not an index of shards (" in message or "names 0 shards" in message


# What is shown


def test_a_bar_tells_bytes_on_a_terminal_and_nothing_elsewhere(hub, files):
    terminal, pipe = io.StringIO(), io.StringIO()
    hub.chunk_pause_s = 0.002
    find_base(REPO, console=Console(file=terminal, force_terminal=True, width=150))
    shutil.rmtree(cache())
    find_base(REPO, console=Console(file=pipe))
    assert pipe.getvalue() == ""
    total = decimal(sum(len(files[name]) for name in NEEDED[1:]))
    assert f"downloading {REPO}: {total} of {total} " in terminal.getvalue()
    assert f"checking: {total} of {total} " in terminal.getvalue()


def test_a_system_without_links_keeps_the_files_themselves(hub, files, monkeypatch):
    def refused(*_args: object) -> None:
        raise OSError

    monkeypatch.setattr(Path, "symlink_to", refused)
    hub.cut_at = 1_000_000
    refusal()
    hub.cut_at = None
    base = find_base(REPO)
    assert len(hub.asked("config.json")) == 1
    assert not (base.folder / WEIGHTS).is_symlink()
    assert (base.folder / WEIGHTS).read_bytes() == files[WEIGHTS]
    hub.requests.clear()
    assert find_base(REPO) == base
    assert hub.asked() == []


@pytest.mark.usefixtures("hub")
def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    message = refusal()
    assert f"the cache {cache()} cannot be written ([Errno 20] Not a directory" in message
    assert message.endswith("make room, or choose another with HF_HOME")
