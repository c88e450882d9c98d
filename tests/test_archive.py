import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

from livt import __main__ as cli
from livt.config import digest, with_overrides
from livt.lab.archive import FILES, export_runs, import_runs
from livt.lab.failures import RunError
from livt.lab.files import dump_json, sha256
from livt.lab.recipes import smoke
from livt.lab.runs import RunStore
from livt.lab.stages import train

HERE = Path(__file__)
REMEDY = "nothing was imported; export the runs again, or copy the archive again"


def train_three(root: Path) -> RunStore:
    """A store with a fine-tuning run, the pretraining run that it starts from, and one more pretraining run."""
    store = RunStore(root)
    train("pretrain", smoke(), store, progress=False)
    train("finetune", smoke(), store, progress=False)
    train("pretrain", with_overrides(smoke(), {"seed": 1}), store, progress=False)
    return store


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_three(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def pair(trained):
    """The fine-tuning run and the pretraining run that it starts from."""
    fine = trained.ids()[0]
    return fine, trained.load(fine).result["pretrain_run"]


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """An archive of all three runs."""
    target = tmp_path_factory.mktemp("archive") / "runs.tar"
    export_runs(trained, [], target)
    return target


@pytest.fixture
def store(tmp_path):
    """An empty store to import into."""
    return RunStore(tmp_path / "store")


def contents(root: Path) -> dict[str, bytes]:
    """All files of runs below a store, by their path in it; locks are empty and do not count."""
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def write(archive: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(archive, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive


def refused(store: RunStore, archive: Path, message: str) -> None:
    """The archive is refused with exactly this message (after its path), and the store keeps what it had."""
    before = contents(store.root)
    with pytest.raises(RunError) as error:
        import_runs(store, archive)
    assert str(error.value) == f"{archive}{message}"
    assert contents(store.root) == before
    assert not (store.root / ".import").exists()


# ---------------------------------------------------------------- there and back


def test_runs_arrive_byte_for_byte(trained, whole, store):
    ids = trained.ids()
    assert import_runs(store, whole) == dict.fromkeys(ids, True)
    assert contents(store.root) == contents(trained.root)
    assert [store.load(run_id) for run_id in ids] == [trained.load(run_id) for run_id in ids]
    assert import_runs(store, whole) == dict.fromkeys(ids, False)
    assert contents(store.root) == contents(trained.root)


def test_the_same_runs_make_the_same_bytes(trained, whole, store, tmp_path):
    import_runs(store, whole)
    for path in store.root.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    ids = trained.ids()
    assert export_runs(store, ids[::-1] + ids, tmp_path / "again.tar") == ids
    assert (tmp_path / "again.tar").read_bytes() == whole.read_bytes()


def test_an_archive_is_a_plain_sorted_tar(trained, whole):
    with tarfile.open(whole) as tar:
        found = tar.getmembers()
    assert [member.name for member in found] == [f"{run_id}/{name}" for run_id in trained.ids() for name in FILES]
    about = {(m.type, m.mode, m.mtime, m.uid, m.gid, m.uname, m.gname) for m in found}
    assert about == {(tarfile.REGTYPE, 0o644, 0, 0, 0, "", "")}


def test_a_fine_tuning_run_brings_its_pretraining_run(trained, pair, store, tmp_path):
    assert export_runs(trained, pair[:1], tmp_path / "runs.tar") == list(pair)
    import_runs(store, tmp_path / "runs.tar")
    assert store.ids() == list(pair)
    assert export_runs(trained, pair[1:], tmp_path / "runs.tar") == [pair[1]]


def test_imported_runs_are_read_not_trained_again(whole, store):
    import_runs(store, whole)
    before = contents(store.root)
    train("finetune", smoke(), store, progress=False)
    assert contents(store.root) == before


# ---------------------------------------------------------------- what is not exported


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the trained store to damage."""
    shutil.copytree(trained.root, tmp_path / "copy")
    return RunStore(tmp_path / "copy")


def test_a_damaged_run_is_not_exported_and_the_old_archive_stays(copy, pair, tmp_path):
    target = tmp_path / "runs.tar"
    target.write_bytes(b"old")
    (copy.root / pair[1] / "metrics.jsonl").write_text("{}\n")
    message = f"{pair[0]} starts from {pair[1]}: .*metrics.jsonl does not match its checksum"
    with pytest.raises(RunError, match=message):
        export_runs(copy, pair[:1], target)
    with pytest.raises(RunError, match="metrics.jsonl does not match its checksum"):
        export_runs(copy, [], target)
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "runs.tar"]


def test_unfinished_runs_stay_out_and_cannot_be_named(copy, pair, tmp_path):
    other = (set(copy.ids()) - set(pair)).pop()
    (copy.root / other / "result.json").unlink()
    assert export_runs(copy, [], tmp_path / "runs.tar") == list(pair)
    with pytest.raises(RunError, match="the run is not finished"):
        export_runs(copy, [other], tmp_path / "runs.tar")
    with pytest.raises(RunError, match="there is no finished run in"):
        export_runs(RunStore(tmp_path / "none"), [], tmp_path / "runs.tar")


def test_a_reader_of_the_old_archive_keeps_it(trained, whole, tmp_path):
    """The new archive takes the name; it is not written over the old one."""
    target = tmp_path / "runs.tar"
    target.write_bytes(b"old")
    with open(target, "rb") as reader:
        export_runs(trained, [], target)
        assert reader.read() == b"old"
    assert target.read_bytes() == whole.read_bytes()


def test_a_failed_write_leaves_no_part(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("livt.lab.archive.os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        export_runs(trained, [], tmp_path / "runs.tar")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- what is not imported


@pytest.mark.parametrize(
    "name",
    [
        "../pretrain-000000000000/config.json",
        "/pretrain-000000000000/config.json",
        "pretrain-000000000000/../config.json",
        "./pretrain-000000000000/config.json",
        "pretrain-000000000000//config.json",
        "pretrain-000000000000",
        "pretrain-000000000000/notes.txt",
        "pretrain-000000000000/resume.pt",
        "pretrain-000000000000/.config.json",
        "pretrain-000000000000/config.json ",
        "pretrain-000000000000/sub/config.json",
        "pretrain-00000000000g/config.json",
        "pretrain-0000000000000/config.json",
        "evaluate-000000000000/config.json",
        "config.json",
        "finetune-٠٠٠٠٠٠٠٠٠٠٠٠/config.json",
    ],
)
def test_a_name_that_is_no_file_of_a_run_is_refused(whole, store, tmp_path, name):
    archive = tmp_path / "bad.tar"
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        for known, content in members(whole).items():
            member = tarfile.TarInfo(known)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        tar.addfile(tarfile.TarInfo(name))
    shown = name.encode().decode("ascii", "backslashreplace")
    refused(store, archive, f": {shown!r} is not a file of a run; nothing was imported")
    assert not store.root.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tar"]


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE,
     tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME],
)  # fmt: skip
def test_a_member_that_is_no_plain_file_is_refused(store, tmp_path, kind):
    member = tarfile.TarInfo("pretrain-000000000000/config.json")
    member.type, member.linkname = kind, "/etc/passwd"
    archive = tmp_path / "bad.tar"
    archive.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    refused(store, archive, f": {member.name} is not a plain file; nothing was imported")
    assert not store.root.exists()


@pytest.mark.parametrize("size", [-512, 1, 2**40])
def test_a_size_beyond_the_archive_is_refused(store, tmp_path, size):
    member = tarfile.TarInfo("pretrain-000000000000/config.json")
    member.size = size
    archive = tmp_path / "bad.tar"
    archive.write_bytes(member.tobuf(tarfile.GNU_FORMAT))
    refused(store, archive, f" is cut short in {member.name}: {REMEDY}")


def test_a_file_twice_is_refused(whole, store, tmp_path):
    name, content = next(iter(members(whole).items()))
    archive = tmp_path / "bad.tar"
    one = tarfile.TarInfo(name)
    one.size = len(content)
    block = one.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)
    archive.write_bytes(2 * block + bytes(1024))
    refused(store, archive, f": {name} appears twice; nothing was imported")


def test_a_truncated_archive_is_refused_wherever_it_ends(whole, store, tmp_path):
    archive, content = tmp_path / "cut.tar", whole.read_bytes()
    with tarfile.open(whole) as tar:
        found = tar.getmembers()
    last = found[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    for member, after in itertools.pairwise(found):
        for length in {member.offset_data, member.offset_data + member.size // 2, member.offset_data + member.size - 1}:
            archive.write_bytes(content[:length])
            refused(store, archive, f" is cut short in {member.name}: {REMEDY}")
        for length in (after.offset, after.offset + 1, after.offset + 511):
            archive.write_bytes(content[:length])
            refused(store, archive, f" is cut short after {member.name}: {REMEDY}")
    archive.write_bytes(content[:end])
    refused(store, archive, f" is cut short after {last.name}: {REMEDY}")
    assert not store.root.exists()


@pytest.mark.parametrize(
    "content", [b"", b"x", bytes(512), bytes(10240), b"text\n" * 1000, b"\x1f\x8b\x08" + bytes(600)]
)
def test_a_file_that_is_no_archive_is_refused(store, tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    refused(store, tmp_path / "x.tar", f" is not an archive of runs: {REMEDY}")


def test_a_damaged_header_is_refused(whole, store, tmp_path):
    content = bytearray(whole.read_bytes())
    with tarfile.open(whole) as tar:
        first, second, *_ = tar.getmembers()
    content[second.offset + 3] ^= 1
    (tmp_path / "x.tar").write_bytes(content)
    refused(store, tmp_path / "x.tar", f": what follows {first.name} is damaged: {REMEDY}")


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_named_and_nothing_arrives(whole, pair, store, tmp_path, name):
    content = bytearray(whole.read_bytes())
    with tarfile.open(whole) as tar:
        member = tar.getmember(f"{pair[0]}/{name}")
    at = content.index(b'"accuracy"', member.offset_data) + 1 if name == "result.json" else member.offset_data + 400
    content[at if at < member.offset_data + member.size else member.offset_data + 20] ^= 1
    (tmp_path / "x.tar").write_bytes(content)
    refused(store, tmp_path / "x.tar", f": {pair[0]}/{name} does not match its checksum: {REMEDY}")
    assert store.ids() == []


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(whole, pair, store, tmp_path, name):
    files = members(whole)
    del files[f"{pair[1]}/{name}"]
    refused(store, write(tmp_path / "x.tar", files), f": {pair[1]}/{name} is missing: {REMEDY}")


def test_a_run_under_another_name_is_refused(whole, pair, store, tmp_path):
    files = {name.replace(pair[1], "pretrain-000000000000"): content for name, content in members(whole).items()}
    message = f": pretrain-000000000000/config.json is not the configuration of pretrain-000000000000: {REMEDY}"
    refused(store, write(tmp_path / "x.tar", files), message)


def forged(run_id: str, files: dict[str, bytes], result: object = None) -> dict[str, bytes]:
    """Members of a run whose checksums and digest hold, whatever its files say."""
    if result is None:
        result = {"train_loss": 1.0}
    sealed = {"result": result, "files": {name: sha256(content) for name, content in files.items()}}
    files = files | {"result.json": dump_json(sealed | {"sha256": sha256(dump_json(sealed))})}
    return {f"{run_id}/{name}": content for name, content in files.items()}


@pytest.mark.parametrize(
    ("config", "environment", "rows"),
    [
        ([], {"data_digest": "d"}, ""),
        ({}, {}, ""),
        ({}, [], ""),
        ({"stage": "pretrain"}, {"data_digest": "d"}, "{"),
        ({"stage": "pretrain"}, {"data_digest": "d"}, "[" * 100_000),
    ],
)
def test_well_sealed_nonsense_is_refused(store, tmp_path, config, environment, rows):
    run_id = f"pretrain-{digest(config, 'd')}"
    files = {"config.json": dump_json(config), "environment.json": dump_json(environment)}
    files |= {"metrics.jsonl": rows.encode(), "weights.safetensors": b""}
    archive = write(tmp_path / "x.tar", forged(run_id, files))
    with pytest.raises(RunError, match=f"x.tar: {run_id}.*: nothing was imported; export"):
        import_runs(store, archive)
    assert contents(store.root) == {}


def test_a_run_that_contradicts_its_configuration_is_refused(trained, pair, store, tmp_path):
    run_id = pair[1]
    files = {name: (trained.root / run_id / name).read_bytes() for name in FILES if name != "result.json"}
    result = trained.load(run_id).result
    score = result["train_loss"]
    archive = write(tmp_path / "x.tar", forged(run_id, files, result | {"train_loss": 0.25}))
    message = f": {run_id}: the last train_loss is {score}, but its configuration or result says 0.25: {REMEDY}"
    refused(store, archive, message)
    archive = write(tmp_path / "x.tar", forged(run_id, files, result))
    assert import_runs(store, archive) == {run_id: True}


# ---------------------------------------------------------------- runs that are there already


def test_another_result_is_refused_and_nothing_is_overwritten(whole, trained, pair, store):
    """A run trained elsewhere, with other rounding: sound, the same name, another result."""
    run_id = pair[0]
    files = {name: (trained.root / run_id / name).read_bytes() for name in FILES if name != "result.json"}
    for name, content in forged(run_id, files, trained.load(run_id).result | {"ece": 1.25}).items():
        (store.root / name).parent.mkdir(parents=True, exist_ok=True)
        (store.root / name).write_bytes(content)
    folder = store.root / run_id
    message = f": {run_id} is in {store.root} with another result, which stays; to import this one, delete the folder "
    refused(store, whole, f"{message}{folder}")
    assert store.ids() == [run_id]
    shutil.rmtree(folder)
    assert all(import_runs(store, whole).values())


def test_a_damaged_run_in_the_store_is_named_not_overwritten(whole, pair, store):
    import_runs(store, whole)
    path = store.root / pair[0] / "weights.safetensors"
    path.write_bytes(b"")
    remedy = f"the run is damaged; delete the folder {path.parent} to train it anew"
    with pytest.raises(RunError) as error:
        import_runs(store, whole)
    assert str(error.value) == f"{path} does not match its checksum: {remedy}"
    assert path.read_bytes() == b""


def interrupt(store: RunStore, run_id: str) -> None:
    """Leave what an interrupted training leaves."""
    (store.root / run_id).mkdir(parents=True)
    for name in ("config.json", "metrics.jsonl", "resume.pt", ".config.json.1.tmp"):
        (store.root / run_id / name).write_text("{}\n")


def test_an_interrupted_run_is_replaced_by_the_finished_one(trained, whole, pair, store):
    interrupt(store, pair[0])
    assert all(import_runs(store, whole).values())
    assert contents(store.root) == contents(trained.root)


def test_a_run_in_training_is_left_to_its_process(trained, whole, pair, store):
    record = trained.load(pair[1])
    with store.open(record.config, record.environment["data_digest"]):
        with pytest.raises(RunError) as error:
            import_runs(store, whole)
        assert str(error.value) == f"{pair[1]}: another process is training this run; import again when it has ended"
        assert not store.is_finished(pair[1])
    import_runs(store, whole)
    assert contents(store.root) == contents(trained.root)


def test_one_import_at_a_time(whole, store):
    from filelock import FileLock

    store.root.mkdir()
    with FileLock(store.root / ".import.lock"):
        message = f"another process is importing into {store.root}: import again when it has ended"
        with pytest.raises(RunError) as error:
            import_runs(store, whole)
    assert str(error.value) == message
    assert all(import_runs(store, whole).values())


def test_a_store_that_is_a_file_is_named(whole, tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(RunError, match="cannot write to the run store .*: File exists"):
        import_runs(RunStore(tmp_path / "store"), whole)


# ---------------------------------------------------------------- killed at every file operation


@pytest.mark.slow
def test_a_killed_import_or_export_is_repeated():
    out = subprocess.run([sys.executable, HERE], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-3000:]
    counts = {name: int(count) for name, count in (part.split() for part in out.stdout.strip().split(", "))}
    # At least each file's opening and renaming, and for an import each run's folder, renaming and lock.
    assert counts["export"] >= 2
    assert counts["import"] >= 3 * (2 * len(FILES) + 3)
    assert counts["replacing"] > counts["import"]


def kill_before(moment: int) -> None:
    """Kill this process before its file operation number ``moment``, counted from now."""
    count = itertools.count()

    def hook(event: str, arguments: tuple) -> None:
        writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir")) and next(count) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def moments(folder: Path, prepare, work, between, after) -> int:
    """Kill ``work`` at every moment, check, repeat it, check again; return how many moments there were."""
    from kill_points import in_child

    for moment in itertools.count():
        place = folder / str(moment)
        place.mkdir(parents=True)
        prepare(place)
        ended = in_child(lambda moment=moment, place=place: (kill_before(moment), work(place)))
        if ended == 0:
            return moment
        assert ended == -signal.SIGKILL, ended
        between(place)
        assert in_child(lambda place=place: work(place)) == 0
        after(place)


def main() -> None:
    """Run as a script: it forks before PyTorch has started any thread."""
    from kill_points import in_child

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert in_child(lambda: train_three(folder / "runs")) == 0
        trained = RunStore(folder / "runs")
        export_runs(trained, [], folder / "runs.tar")
        import_runs(RunStore(folder / "once"), folder / "runs.tar")  # what the forked processes need is there then
        archive, expected, ids = folder / "runs.tar", contents(trained.root), trained.ids()

        def old_or_new(place: Path) -> None:
            assert (place / "runs.tar").read_bytes() in (b"old", archive.read_bytes())

        def new(place: Path) -> None:
            assert (place / "runs.tar").read_bytes() == archive.read_bytes()

        def whole_runs(place: Path) -> None:
            found = RunStore(place)
            for run_id in filter(found.is_finished, found.ids()):
                found.load(run_id)
            unfinished = {run_id for run_id in found.ids() if not found.is_finished(run_id)}
            assert unfinished <= interrupted, unfinished
            starts = {found.load(i).result.get("pretrain_run") for i in found.ids() if found.is_finished(i)}
            assert all(found.is_finished(start) for start in starts - {None})

        def as_expected(place: Path) -> None:
            assert contents(place) == expected

        counts, interrupted = {}, set[str]()
        counts["export"] = moments(
            folder / "a",
            lambda place: (place / "runs.tar").write_bytes(b"old"),
            lambda place: export_runs(trained, [], place / "runs.tar"),
            old_or_new,
            new,
        )
        for label in ("import", "replacing"):
            if label == "replacing":
                interrupted.update(ids[:2])
            counts[label] = moments(
                folder / label,
                lambda place: [interrupt(RunStore(place), run_id) for run_id in interrupted],
                lambda place: import_runs(RunStore(place), archive),
                whole_runs,
                as_expected,
            )
    print(", ".join(f"{label} {count}" for label, count in counts.items()))


# ---------------------------------------------------------------- the command line


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    return cli.main(arguments), *capsys.readouterr()


def test_the_command_line_exports_and_imports(capsys, trained, pair, tmp_path):
    target, there = tmp_path / "runs.tar", str(tmp_path / "there")
    arguments = ("runs", "export", pair[0][:14], "--to", str(target), "--runs", str(trained.root))
    status, out, err = run(capsys, *arguments)
    size = f"{target}: {target.stat().st_size / 1e6:.1f} MB\n"
    assert (status, out, err) == (0, f"{pair[0]}: exported\n{pair[1]}: exported\n{size}", "")
    arguments = ("runs", "import", str(target), "--runs", there)
    assert run(capsys, *arguments) == (0, f"{pair[1]}: imported\n{pair[0]}: imported\n", "")
    here = "already here, with the same result"
    assert run(capsys, *arguments) == (0, f"{pair[1]}: {here}\n{pair[0]}: {here}\n", "")
    target.write_bytes(target.read_bytes()[:700])
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err == f"livt: error: {target} is cut short in {pair[0]}/config.json: {REMEDY}\n"


def test_two_runs_are_compared(capsys, trained, pair):
    other = (set(trained.ids()) - set(pair)).pop()
    status, out, _ = run(capsys, "runs", "compare", pair[1], other, "--runs", str(trained.root))
    assert status == 0
    lines = out.splitlines()
    assert lines[0].split() == [pair[1], other, "difference"]
    assert lines[1] == "settings"
    assert lines[2].split() == ["seed", "0", "1"]
    assert lines[3] == "results"
    first, second = (trained.load(run_id).result["train_loss"] for run_id in (pair[1], other))
    expected = ["train_loss", f"{first:.4f}", f"{second:.4f}", f"{second - first:+.4f}"]
    assert expected in [line.split() for line in lines]
    assert "data_digest" not in out


def test_a_run_compared_with_itself_differs_nowhere(capsys, trained, pair):
    status, out, _ = run(capsys, "runs", "compare", pair[0], pair[0], "--runs", str(trained.root))
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[1:3] == [["settings"], ["no", "difference"]]
    assert lines[-2:] == [["environment"], ["no", "difference"]]
    assert {line[-1] for line in lines[4:-2]} == {"equal"}


def test_runs_of_different_stages_are_compared_by_what_each_has(capsys, trained, pair):
    status, out, _ = run(capsys, "runs", "compare", *pair, "--runs", str(trained.root))
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["stage", "finetune", "pretrain"] in lines
    assert ["finetune.loss", "bal_bce", "-"] in lines
    per_class = json.loads(dump_json(trained.load(pair[0]).result))["per_class"]
    assert ["per_class", str(len(per_class)), "values", "-", "differs"] in lines


if __name__ == "__main__":
    main()
