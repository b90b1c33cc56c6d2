"""Giving stores and heads away and taking them: nothing is believed, nothing half-written, nothing sound is lost."""

import inspect
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from lib import hub, profiles, shards, sharing
from lib.errors import InputError
from lib.hub import HuggingFace
from lib.paths import scratch
from lib.result_files import read_result, write_result
from lib.shards import close_folder, write_shard
from lib.sharing import pull, push, shares_of
from lib.store import load_embeddings

PROFILE = replace(
    profiles.PROFILES["smoke"],
    name="shared",
    encoders=("log-mel",),
    groups=(
        profiles.general(("soundscapes",), 7, 5, 3, ("linear", "mlp")),
        replace(profiles.bioacoustic("forest-few-shot", 4, 3, 2), heads=("linear",)),
    ),
    ablation_encoders=(),
    control_heads=(),
    mean_cls=(),
)
STORES, CELLS, REPO = 3 + (5 + 2), 3, "someone/embeddings"  # few-shot training clips are stored in five views


class Folder:
    """A folder that stands for a hub; it may break off after some files, or hold other bytes than were sent."""

    def __init__(self, root):
        self.root, self.fetched, self.breaks_after = root, [], None

    def revision(self, repo, wanted):
        if wanted and not (self.root / wanted).is_dir():
            raise InputError(f"{repo} has no revision '{wanted}'")
        return wanted or max(path.name for path in self.root.iterdir())

    def files(self, repo, revision):
        root = self.root / revision
        return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]

    def fetch(self, repo, revision, names, folder):
        for name in names:
            if (folder / name).exists():
                continue
            if self.breaks_after is not None and len(self.fetched) >= self.breaks_after:
                raise KeyboardInterrupt
            self.fetched.append(name)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.root / revision / name, folder / name)

    def send(self, repo, folder):
        revision = f"{len(list(self.root.iterdir())):040x}"
        shutil.copytree(folder, self.root / revision)
        return revision


@pytest.fixture
def there(tmp_path):
    """A hub without anything."""
    (tmp_path / "hub").mkdir()
    return Folder(tmp_path / "hub")


@pytest.fixture(autouse=True)
def full(monkeypatch):
    """A scratch folder with all that the profile shares, made up, but with the indexes and headers of today."""
    monkeypatch.setattr(shards, "SHARD_CLIPS", 2)
    for number, share in enumerate(shares_of(PROFILE)[0]):
        if share.is_store:
            make_store(share, share.depends, number)
        else:
            write_result(share.place, share.depends, [{"value": number}], {"test_scores": torch.full((2,), number)})


def make_store(share, depends, seed):
    count, index = share.depends["clips"], {"depends": depends, "shards": {}}
    generator = torch.Generator().manual_seed(seed)
    for number in shards.shards_of(count):
        clips = len(shards.clips_of(number, count))
        tensors = {"tokens": torch.randn(clips, 6, 4, generator=generator).half(), "cls": torch.zeros(clips, 4).half()}
        index["shards"][shards.shard_name(number)] = write_shard(share.place, number, tensors, "")
    close_folder(share.place, index, grid=[3, 2])


def contents():
    """Return all that is shared and here, by path."""
    paths = [path for part in ("store", "cells") for path in (scratch() / part).rglob("*") if path.is_file()]
    return {p.relative_to(scratch()).as_posix(): p.read_bytes() for p in paths if not p.name.startswith("sum-")}


def leave():
    """Go to a machine that has nothing."""
    shutil.rmtree(scratch())


def sent(there):
    return there.root / push(PROFILE, REPO, there, agreed=True)


def test_what_is_pushed_is_pulled_byte_by_byte_and_can_be_read(there):
    sent(there)
    before = contents()
    leave()
    lines = pull(PROFILE, REPO, there)
    assert contents() == before and len(lines) == STORES + CELLS and all(line.endswith(": taken") for line in lines)
    assert len(load_embeddings("log-mel", "soundscapes", "train", 7)) == 7
    assert pull(PROFILE, REPO, there) == [f"{STORES + CELLS} of {STORES + CELLS} are here"]
    assert len(there.fetched) == len(set(there.fetched)) == len(before)  # nothing twice, nothing else
    assert sorted(path.name for path in scratch().iterdir()) == ["cells", "pulled", "pulled.json", "store"]


def test_nothing_is_sent_without_a_yes_and_licences_are_told_before(there, capsys, monkeypatch):
    assert push(PROFILE, REPO, there, agreed=False) == "" and not list(there.root.iterdir())
    said = capsys.readouterr().out
    assert f"To {REPO}: {STORES} folders of embeddings, {CELLS} cells" in said and "with YES=1" in said
    assert "encoder log-mel: this project's own" in said and "dataset forest-few-shot: this project's own" in said
    lines = sharing.licences(["amae", "asit", "eat"], ["fsd50k", "desed", "esc10-soundscapes", "uhh"])
    assert lines["encoder amae"].startswith("CC BY-NC 4.0, non-commercial use only")
    assert lines["encoder asit"].startswith("NO LICENCE STATED, unclear") and "CC BY-NC" in lines["dataset uhh"]
    assert lines["dataset desed"].startswith("NO LICENCE STATED") and "each clip has its own" in lines["dataset fsd50k"]
    assert "CC" in lines["dataset esc10-soundscapes"]


def test_licences_travel_with_what_was_made(there):
    card = (sent(there) / "README.md").read_text()
    assert "profile `shared`" in card and "- dataset soundscapes: this project's own sounds" in card


def test_only_what_is_sound_and_of_today_is_sent(there):
    shares = shares_of(PROFILE)[0]
    stale, harmed, cell = shares[0], shares[1], shares[-1]
    make_store(stale, stale.depends | {"weights": "older"}, 0)
    path = next(harmed.place.glob("shard-*"))
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    cell.place.unlink()
    before = contents()
    files = there.files(REPO, sent(there).name)
    assert contents() == before  # to look harms nothing
    for share in shares:
        assert any(name.startswith(share.path) for name in files) is (share not in (stale, harmed, cell))
    shutil.rmtree(scratch() / "store")
    shutil.rmtree(scratch() / "cells")
    with pytest.raises(InputError, match="Nothing of profile 'shared' is complete and up to date here"):
        push(PROFILE, REPO, there, agreed=True)


@pytest.mark.parametrize(
    "harm",
    [
        "flip a byte",
        "delete",
        "name another file",
        "lie about clips",
        "clips in words",
        "lie about each shard",
        "another grid",
        "no grid",
        "no index",
    ],
)
def test_a_store_that_is_not_what_its_index_says_is_not_taken_and_what_is_here_stays(there, harm):
    share = next(share for share in shares_of(PROFILE)[0] if "soundscapes, train" in share.label)
    revision = sent(there)
    folder = revision / share.path
    path, index = folder / "shard-00001.safetensors", json.loads((folder / "index.json").read_text())
    if harm == "flip a byte":
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    elif harm == "delete":
        path.unlink()
    elif harm == "name another file":
        (revision / "evil").write_text("evil")
        index["shards"]["../../../../../../evil"] = index["shards"].pop(path.name)
    elif harm == "lie about clips":
        index["shards"][path.name]["clips"] = 99
    elif harm == "clips in words":
        index["shards"][path.name]["clips"] = "2"
    elif harm == "lie about each shard":  # together they are as many as they must be
        index["shards"]["shard-00000.safetensors"]["clips"], index["shards"][path.name]["clips"] = 3, 1
    elif harm == "another grid":
        index["grid"] = [3, 3]
    elif harm == "no grid":
        del index["grid"]
    else:
        index = []
    (folder / "index.json").write_text(json.dumps(index))
    make_store(share, share.depends | {"weights": "older"}, 0)  # what is here is stale, and stays as it is
    here = contents()
    line = next(line for line in pull(PROFILE, REPO, there) if line.startswith(share.label))
    assert "not taken, " in line and contents() == here and not (scratch().parent / "evil").exists()
    if harm in ("flip a byte", "delete"):
        assert "shard-00001.safetensors is not what its index says" in line
    elif harm not in ("name another file", "no index"):
        assert line.endswith("its index is damaged")


def test_a_store_of_something_else_is_not_fetched_and_the_difference_is_told(there):
    share = shares_of(PROFILE)[0][0]
    make_store(share, share.depends | {"torch": "1.0", "weights": "others"}, 0)
    revision = f"{0:040x}"
    shutil.copytree(scratch(), there.root / revision)
    shutil.rmtree(share.place)
    here = contents()
    (line,) = (line for line in pull(PROFILE, REPO, there) if line.startswith(share.label))
    assert line.endswith("made with another state of the release of PyTorch, the encoder's weights")
    assert there.fetched == [f"{share.path}/index.json"] and contents() == here


def test_a_cell_of_another_protocol_or_damaged_is_not_taken(there):
    first, second, third = shares_of(PROFILE)[0][-3:]
    revision = sent(there)
    write_result(revision / first.path, first.depends | {"protocol": {}}, [], {"test_scores": torch.zeros(2)})
    damaged = (revision / second.path).read_bytes()
    (revision / second.path).write_bytes(damaged[:-1] + b"\x7f")
    leave()
    lines = pull(PROFILE, REPO, there)
    assert f"{first.label}: not taken, it was made with another state of protocol" in lines
    assert f"{second.label}: not taken, it is missing or damaged" in lines and f"{third.label}: taken" in lines
    assert not first.place.exists() and not second.place.exists() and read_result(third.place)[0]


@pytest.mark.parametrize("after", [0, 5, 20])
def test_an_interrupted_pull_leaves_nothing_half_and_goes_on_where_it_was(there, after):
    sent(there)
    before = contents()
    leave()
    there.breaks_after = after
    with pytest.raises(KeyboardInterrupt):
        pull(PROFILE, REPO, there)
    assert contents().items() <= before.items()
    for share in shares_of(PROFILE)[0]:
        assert not share.place.exists() or not share.fault(share.place)
    there.breaks_after = None
    pull(PROFILE, REPO, there)
    assert contents() == before and len(there.fetched) == len(before)


def test_the_revision_is_pinned_recorded_and_a_wrong_one_refused(there):
    old = sent(there).name
    cell = shares_of(PROFILE)[0][-1]
    write_result(cell.place, cell.depends, [{"value": "newer"}], {"test_scores": torch.ones(2)})
    new = sent(there).name
    for revision, value in ((None, "newer"), (old, STORES + CELLS - 1)):
        leave()
        pull(PROFILE, REPO, there, revision)
        assert read_result(cell.place)[0]["rows"] == [{"value": value}]
        recorded = json.loads((scratch() / "pulled.json").read_text())
        assert recorded[cell.path] == {"repo": REPO, "revision": revision or new} and len(recorded) == STORES + CELLS
    with pytest.raises(InputError, match="no revision 'main-2'"):
        pull(PROFILE, REPO, there, "main-2")


def test_what_is_not_there_or_cannot_be_told_here_is_said_and_the_rest_taken(there, monkeypatch):
    revision = sent(there)
    shutil.rmtree(revision / "store" / "log-mel" / "soundscapes" / "val-5")
    leave()
    real = sharing.Versions.of

    def of(self, cell):
        if cell.dataset == "forest-few-shot":
            raise InputError("There is no copy of the forest.")
        return real(self, cell)

    monkeypatch.setattr(sharing.Versions, "of", of)
    lines = pull(PROFILE, REPO, there)
    assert "log-mel on forest-few-shot: not compared, so not taken: There is no copy of the forest." in lines
    assert f"embeddings of log-mel on soundscapes, val: not in {REPO}" in lines
    assert sum(line.endswith(": taken") for line in lines) == 2 + 2


def test_what_is_asked_of_the_real_hub_is_what_it_understands(tmp_path, monkeypatch):
    """Its functions are replaced by ones of the same signature that note how they are called."""
    asked = []

    def noted(name, real, answer):
        signature = inspect.signature(real)

        def call(*arguments, **options):
            signature.bind(*arguments, **options)  # raises for what it does not know
            asked.append((name, arguments, options))
            return answer

        return call

    api = huggingface_hub.HfApi
    for name, answer in (
        ("repo_info", SimpleNamespace(sha="a" * 40)),
        ("list_repo_files", ["x"]),
        ("create_repo", None),
        ("upload_folder", None),
    ):
        monkeypatch.setattr(api, name, noted(name, getattr(api, name), answer))
    monkeypatch.setattr(hub, "hf_hub_download", noted("download", huggingface_hub.hf_hub_download, "path"))
    real = HuggingFace()
    assert real.revision(REPO, "abc") == "a" * 40 and real.files(REPO, "a" * 40) == ["x"]
    real.fetch(REPO, "a" * 40, ["store/x", "cells/y"], tmp_path)
    assert real.send(REPO, tmp_path) == "a" * 40
    names = [name for name, _, _ in asked]
    assert names == [
        "repo_info",
        "list_repo_files",
        "download",
        "download",
        "create_repo",
        "upload_folder",
        "repo_info",
    ]
    assert all(options["repo_type"] == "dataset" for _, _, options in asked)
    assert {call[1][1] for call in asked if call[0] == "download"} == {"store/x", "cells/y"}
    assert all(call[2]["revision"] == "a" * 40 for call in asked if call[0] == "download")
    assert asked[4][2]["private"] is True  # nobody's embeddings are opened by accident


def test_what_the_hub_says_is_one_sentence():
    answer = SimpleNamespace(headers={}, request=None)
    for error, said in (
        (RevisionNotFoundError("404", response=answer), "a/b has no revision 'abc'; leave REVISION out"),
        (RepositoryNotFoundError("404", response=answer), "There is no repository a/b on the hub, or it is private"),
        (HfHubHTTPError("500 Server Error", response=answer), "did not do as asked (500 Server Error); try again"),
        (OSError("no route to host"), "did not do as asked (no route to host); try again"),
        (type("ConnectError", (Exception,), {})("refused"), "did not do as asked (refused); try again"),
        (InputError("This is wrong."), "This is wrong."),
    ):
        with pytest.raises(InputError) as refused, hub.in_words("a/b", "abc"):
            raise error
        assert said in str(refused.value)


def test_a_name_that_is_no_repository_is_one_sentence(monkeypatch):
    monkeypatch.setattr("sys.argv", ["sharing", "push", "--repo", "embeddings", "--profile", "smoke"])
    with pytest.raises(SystemExit, match="make push: name the repository, `make push REPO=owner/name`"):
        sharing.main()
