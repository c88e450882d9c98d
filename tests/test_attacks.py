"""Files that somebody made to do harm: one clear line, soon, and nothing is run, moved or exhausted."""

import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock, Timeout
from PIL import Image
from safetensors.torch import load_file, save

from livt import __main__ as cli
from livt.config import digest
from livt.data.decoding import MAX_PIXELS
from livt.data.images import DataError, decode
from livt.lab.archive import FILES, import_runs
from livt.lab.failures import Ended, RunError
from livt.lab.files import dump_json, parse_json, sha256
from livt.lab.local import _signals_raised
from livt.lab.promoted import read_promoted
from livt.lab.runs import RunStore
from livt.mae import MaskedAutoencoder, load_mae_checkpoint
from livt.models import MAX_BLOCKS, create_vit, load_livt_checkpoint

ONE = torch.zeros(1)

# ---------------------------------------------------------------- public checkpoints


def classifier() -> dict[str, torch.Tensor]:
    return create_vit("pico", 32, 4, 7).state_dict()


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head.weight": ONE.expand(10**9, 32)}, "the weights claim to be larger than the file"),
        ({"patch_embed.proj.weight": ONE.expand(10**9, 3, 4, 4)}, "the weights claim to be larger than the file"),
        ({"patch_embed.proj.weight": ONE.expand(32, 3, 10**6, 10**6)}, "the weights claim to be larger than the file"),
        ({"pos_embed": ONE.expand(1, 10**12 + 1, 32)}, "the weights claim to be larger than the file"),
        ({"blocks.0.mlp.fc1.weight": ONE.expand(10**15, 32)}, "the weights claim to be larger than the file"),
        ({f"blocks.{i}.norm1.bias": ONE for i in range(20_000)}, f"20000 blocks, more than the {MAX_BLOCKS}"),
        ({f"blocks.{i}.norm1.bias": ONE for i in range(MAX_BLOCKS)}, "does not fit the model: missing blocks.2."),
        ({f"x{i}": ONE for i in range(20_000)}, "unexpected 'x0'; unexpected 'x1'; unexpected 'x2' and 19997 more"),
        ({"head.weight": torch.zeros(10**9, 0)}, "'head.weight' is not a weight"),
        ({"head.weight": torch.tensor(1.0)}, "lacks the weight 'head.weight'"),
        ({"head.weight": torch.zeros(7, 32).to_sparse()}, "'head.weight' is not a weight"),
        ({"head.weight": torch.zeros(7, 32, device="meta")}, "'head.weight' is not a weight"),
        ({"head.weight": torch.zeros(7, 32, dtype=torch.int64)}, "'head.weight' is not a weight"),
        ({"patch_embed.proj.weight": torch.zeros(0, 3, 4, 4)}, "'patch_embed.proj.weight' is not a weight"),
        ({3: ONE}, "3 is not a weight"),
        ({"\x1b[2J\n<b>": ONE}, r"unexpected '\\x1b\[2J\\n<b>'"),
    ],
)
def test_a_checkpoint_that_claims_what_it_has_not_is_refused(tmp_path, changes, message, zipped):
    path = tmp_path / "c.pth"
    torch.save({"model": classifier() | changes}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=message) as error:
        load_livt_checkpoint(path, num_heads=2)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_a_decoder_of_very_many_blocks_is_refused(tmp_path):
    mae = MaskedAutoencoder(create_vit("pico", 32, 4, 0), decoder_width=24, decoder_depth=1, decoder_heads=3)
    state = {name.removeprefix("encoder."): value for name, value in mae.state_dict().items()}
    state |= {f"decoder_blocks.{i}.norm1.bias": ONE for i in range(20_000)}
    torch.save({"model": state}, tmp_path / "mae.pth")
    with pytest.raises(ValueError, match=r"mae\.pth has 20000 decoder_blocks, more than"):
        load_mae_checkpoint(tmp_path / "mae.pth", num_heads=2, decoder_num_heads=3)


@pytest.mark.parametrize("how", ["compressed", "short"])
def test_a_checkpoint_whose_entries_are_not_what_they_say_is_refused(tmp_path, how):
    """Compressed entries could unfold to any size; a storage may claim more bytes than its entry has."""
    torch.save({"model": classifier()}, tmp_path / "sound.pth")
    form = zipfile.ZIP_DEFLATED if how == "compressed" else zipfile.ZIP_STORED
    with zipfile.ZipFile(tmp_path / "sound.pth") as sound, zipfile.ZipFile(tmp_path / "c.pth", "w", form) as file:
        for name in sound.namelist():
            content = sound.read(name)
            file.writestr(name, content[:4] if how == "short" and "/data/" in name else content)
    with pytest.raises(ValueError, match=r"c\.pth is damaged, or holds more than weights"):
        load_livt_checkpoint(tmp_path / "c.pth", num_heads=2)


# ---------------------------------------------------------------- images


def encoded(form: str, frames: int = 1, **options: object) -> bytes:
    buffer = io.BytesIO()
    first, *rest = [Image.new("RGB", (40, 30), (90 * i, 200, 50)) for i in range(frames)]
    more = {"save_all": True, "append_images": rest} if rest else {}
    first.save(buffer, form, **more, **options)
    return buffer.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG that says its size, and has a kilobyte of pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def bmp_of(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def tiff_of(width: int, height: int) -> bytes:
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 8)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 16) + bytes(8) + struct.pack("<H", len(tags)) + entries + bytes(4)


def fails(content: bytes) -> str:
    with pytest.raises(DataError) as error:
        decode(content, "x.jpg", "fetch it anew")
    text = str(error.value)
    assert text.startswith("x.jpg does not decode (")
    assert text.endswith("): fetch it anew")
    assert "\n" not in text
    return text


def test_no_program_in_an_image_is_run(tmp_path, monkeypatch):
    """An EPS file under an image's name: Ghostscript would run it, if Pillow were let to find out what it is.

    A gs stands in the path that leaves a mark, whether this machine has Ghostscript or not.
    """
    gs = tmp_path / "gs"
    gs.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    program = f"({tmp_path}/ran) (w) file closefile showpage\n"
    eps = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{program}%%EOF\n".encode()
    (tmp_path / "picture.jpg").write_bytes(eps)
    assert "it is no image of JPEG, PNG" in fails(eps)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(OSError, match="."), Image.open(tmp_path / "picture.jpg") as image:  # what is prevented
        image.convert("RGB")
    assert (tmp_path / "ran").exists()


def test_data_prep_runs_no_program_either(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(cli.__file__).parents[1] / "data_prep"))
    import storage

    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "picture.jpg").write_bytes(eps)
    assert "it is no image of JPEG" in storage._reason(tmp_path / "picture.jpg")
    assert "more than the 80,000,000 pixels" in storage._reason(bmp_of(40_000, 25_000))
    assert storage.reduced(eps) is None
    for path in Path(storage.__file__).parent.glob("*.py"):
        assert "Image.open(" not in path.read_text(), f"{path.name}: images are opened by livt.data.decoding alone"


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("make", [png_of, bmp_of, tiff_of])
@pytest.mark.parametrize("size", [(40_000, 25_000), (1, 10**9), (MAX_PIXELS + 1, 1), (2**31 - 1, 2**31 - 1)])
def test_an_image_that_says_it_is_huge_is_refused_before_it_takes_memory(make, size):
    import tracemalloc

    started = time.monotonic()
    tracemalloc.start()
    text = fails(make(*size))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert re.search("more than the 80,000,000 pixels|too large", text)
    assert peak < 50e6
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_an_animation_is_its_first_frame(form):
    image = decode(encoded(form, frames=3, **({"lossless": True} if form == "WEBP" else {})), "x", "")
    assert (image.mode, image.size, image.getpixel((5, 5))) == ("RGB", (40, 30), (0, 200, 50))


def test_a_gif_is_no_format_of_data():
    assert "it is no image of" in fails(encoded("GIF", frames=3))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_a_truncated_or_damaged_image_is_one_line(form):
    content = encoded(form, **({"compression": "tiff_lzw"} if form == "TIFF" else {}))
    for length in range(0, len(content) - 40, max(1, len(content) // 60)):
        try:
            image = decode(content[:length], "x.jpg", "fetch it anew")
        except DataError:
            fails(content[:length])
        else:
            assert image.size == (40, 30)
    assert fails(content[:10])
    for place in range(0, len(content), max(1, len(content) // 200)):
        damaged = bytearray(content)
        damaged[place] ^= 255
        try:
            decode(bytes(damaged), "x.jpg", "fetch it anew")
        except DataError:
            fails(bytes(damaged))


# ---------------------------------------------------------------- runs that somebody sealed anew


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> RunStore:
    """A store of two runs: what is done to it is done to copies."""
    store = RunStore(tmp_path_factory.mktemp("trained"))
    assert cli.main(["finetune", "smoke", "--runs", str(store.root), "--device", "cpu", "--quiet"]) == 0
    return store


@pytest.fixture(scope="module")
def fine(trained) -> str:
    return next(i for i in trained.ids() if i.startswith("finetune"))


def files_of(store: RunStore, run_id: str) -> dict[str, bytes]:
    return {name: (store.root / run_id / name).read_bytes() for name in FILES}


def sealed(files: dict[str, bytes], *, rename: bool = True) -> tuple[str, dict[str, bytes]]:
    """Give files fitting checksums, and their run the name that its configuration and data ask for."""
    result = json.loads(files["result.json"])["result"]
    rest = {name: content for name, content in files.items() if name != "result.json"}
    body = {"result": result, "files": {name: sha256(content) for name, content in rest.items()}}
    rest["result.json"] = plain({**body, "sha256": sha256(dump_json(body))})
    config, environment = (json.loads(files[f"{name}.json"]) for name in ("config", "environment"))
    return f"{config['stage']}-{digest(config, environment['data_digest'])}", rest


def plain(value: Any) -> bytes:
    return json.dumps(value).encode()


def edited(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, bytes]], None]:
    """Change the JSON of a file in place."""

    def edit(files: dict[str, bytes]) -> None:
        value = json.loads(files[name])
        files[name] = plain(change(value) or value)

    return edit


def scored(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    """Change the result; a value ``...`` takes the entry away."""

    def change(sealing: dict[str, Any]) -> None:
        for key, value in changes.items():
            sealing["result"].pop(key)
            if value is not ...:
                sealing["result"][key] = value

    return edited("result.json", change)


def about(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    return edited("environment.json", lambda values: values.update(changes))


def rows(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[dict[str, bytes]], None]:
    def edit(files: dict[str, bytes]) -> None:
        values = [json.loads(line) for line in files["metrics.jsonl"].splitlines()]
        change(values)
        files["metrics.jsonl"] = b"".join(plain(value) + b"\n" for value in values)

    return edit


def weighed(content: bytes | Callable[[dict[str, torch.Tensor]], object]) -> Callable[[dict[str, bytes]], None]:
    """Other weights: these bytes, or the tensors after a change."""

    def edit(files: dict[str, bytes]) -> None:
        if callable(content):
            tensors = torch_weights(files["weights.safetensors"])
            content(tensors)
            files["weights.safetensors"] = save(tensors)
        else:
            files["weights.safetensors"] = content

    return edit


def torch_weights(content: bytes) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    return load(content)


def header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


OVERLAP = plain(
    {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
    }
)
HUGE = plain({"a": {"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 8]}})
DAMAGE = {
    "weights garbage": (weighed(bytes(range(256)) * 40), "does not hold weights"),
    "weights empty": (weighed(b""), "does not hold weights"),
    "weights huge header": (weighed(header(b"{}", 2**60)), "does not hold weights"),
    "weights header of 90 MB": (weighed(header(b"[" * 90_000_000)), "does not hold weights"),
    "weights overlap": (weighed(header(OVERLAP) + bytes(12)), "does not hold weights"),
    "weights claim": (weighed(header(HUGE) + bytes(8)), "does not hold weights"),
    "weights deep": (weighed(header(b'{"a":' * 5000 + b"1" + b"}" * 5000)), "does not hold weights"),
    "weights other dtype": (weighed(lambda t: t.update({k: v.double() for k, v in t.items()})), "as F64, not as F32"),
    "weights missing": (weighed(lambda t: t.pop("head.bias")), "not fit the model of its recipe: missing head.bias"),
    "weights more": (weighed(lambda t: t.update(more=ONE)), "unexpected 'more'"),
    "weights shape": (weighed(lambda t: t.update({"head.bias": torch.zeros(11)})), r"head.bias has shape \(11,\)"),
    "weights nan": (weighed(lambda t: t["head.bias"].fill_(float("nan"))), "numbers that are not finite"),
    "no ece": (scored(ece=...), "the result lacks ece"),
    "accuracy a list": (scored(accuracy=[1.0]), r"accuracy is \[1.0\], not a percentage"),
    "accuracy text": (scored(accuracy="99"), "accuracy is '99', not a percentage"),
    "accuracy true": (scored(accuracy=True), "accuracy is True"),
    "accuracy 101": (scored(accuracy=101.0), "accuracy is 101.0, not a percentage"),
    "ece negative": (scored(ece=-0.1), "ece is -0.1"),
    "mce null": (scored(mce=None), "mce is None"),
    "few text": (scored(few="<script>"), "few is '<script>'"),
    "per class too few": (scored(per_class=[1.0] * 9), "per_class is .* not a list of 10"),
    "per class text": (scored(per_class=["1"] * 10), "per_class is"),
    "counts negative": (scored(class_counts=[-1] * 10), "class_counts is"),
    "counts too many": (scored(class_counts=[1] * 11), "class_counts is"),
    "no diagram": (scored(reliability=...), "reliability of the result is None"),
    "diagram lengths": (scored(reliability={"size": [1], "accuracy": [], "confidence": [1.0]}), "not a list of 1"),
    "another's folder": (scored(pretrain_run="../../etc"), "pretrain_run is '../../etc', not the name of a run"),
    "result a list": (edited("result.json", lambda v: v | {"result": [1]}), "result is"),
    "row lacks accuracy": (rows(lambda r: r[0].pop("accuracy")), "epoch 1 lacks accuracy"),
    "row lacks lr": (rows(lambda r: r[1].pop("lr")), "epoch 2 lacks lr"),
    "row a list": (rows(lambda r: r.__setitem__(0, [1])), r"epoch 1 is \[1\]"),
    "row of text": (rows(lambda r: r[0].update(train_loss="low")), "train_loss is 'low'"),
    "no rows": (rows(lambda r: r.clear()), "it has 0 epochs"),
    "other epochs": (rows(lambda r: r.append(r[0])), "epoch 3 says that it is epoch 1"),
    "threads text": (about(threads="one"), "threads is 'one'"),
    "packages a list": (about(packages=["torch"]), "packages is"),
    "device a number": (about(device=3), "device is 3"),
    "device with escapes": (about(device="CPU\x1b[2J"), "has characters that no record has"),
    "device too long": (about(device="x" * 10_000), "is too long"),
    "code a list": (about(code=[]), r"code is \[\]"),
    "commit a number": (about(commit=7), "commit is 7"),
    "environment a list": (edited("environment.json", lambda v: [v]), "environment"),
    "unknown loss": (edited("config.json", lambda c: c["finetune"].update(loss="<b>")), "the configuration: .*<b>"),
    "unknown setting": (edited("config.json", lambda c: c.update(more=1)), "the configuration: unknown key 'more'"),
    "other settings": (edited("config.json", lambda c: c["finetune"].update(epochs=10**5)), "it has 2 epochs"),
    "a huge image": (edited("config.json", lambda c: c["data"].update(image_size=4096)), "patches"),
    "a deep decoder": (edited("config.json", lambda c: c["pretrain"].update(decoder_depth=10**8)), "decoder_depth"),
    "1 for 1.0": (edited("config.json", lambda c: c["finetune"].update(tau=1)), "not that of a recipe"),
    "another model": (edited("config.json", lambda c: c["model"].update(size="base")), "does not fit the model"),
    "seed text": (edited("config.json", lambda c: c.update(seed="0")), "the configuration: seed must be int"),
}  # fmt: skip
DEEP = b"[" * 100_000
RAW = {
    "deep rows": ("metrics.jsonl", DEEP, "metrics.jsonl is not readable JSON .it is nested too deeply"),
    "deep but parsed": ("metrics.jsonl", b"[" * 60 + b"]" * 60, "metrics.jsonl is not readable JSON .it is nested too"),
    "nan": ("metrics.jsonl", b'{"epoch": NaN}', "NaN is not a number of JSON"),
    "infinite": ("metrics.jsonl", b'{"epoch": 1e999}', "1e999 is not a number"),
    "long": ("metrics.jsonl", b"9" * 10_000, "is not a number of JSON"),
    "no text": ("metrics.jsonl", b"\xff\xfe", "metrics.jsonl is not readable JSON"),
}


def damaged_run(trained: RunStore, fine: str, what: str) -> tuple[str, dict[str, bytes], str]:
    files = files_of(trained, fine)
    if what in RAW:
        name, files[name], message = RAW[what]
        run_id, files = sealed(files)
        return run_id, files, message
    damage, message = DAMAGE[what]
    damage(files)
    if what == "environment a list":
        return fine, resealed(files), message
    run_id, files = sealed(files)
    return run_id, files, message


def resealed(files: dict[str, bytes]) -> dict[str, bytes]:
    body = {"result": json.loads(files["result.json"])["result"]}
    body["files"] = {name: sha256(content) for name, content in files.items() if name != "result.json"}
    return files | {"result.json": plain({**body, "sha256": sha256(dump_json(body))})}


@pytest.mark.parametrize("what", [*DAMAGE, *RAW])
def test_a_run_that_is_not_one_is_refused_and_breaks_no_command(capsys, trained, fine, tmp_path, what):
    run_id, files, message = damaged_run(trained, fine, what)
    archive, store = tmp_path / "x.tar", RunStore(tmp_path / "runs")
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in {f"{run_id}/{name}": content for name, content in files.items()}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(RunError, match=message) as error:
        import_runs(store, archive)
    assert str(error.value).startswith(f"{archive}: {run_id}")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    assert store.ids() == []
    assert not (store.root / ".import").exists()

    (store.root / run_id).mkdir()
    for name, content in files.items():
        (store.root / run_id / name).write_bytes(content)
    at = ("--runs", str(store.root))
    assert cli.main(["runs", "verify", *at]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{run_id}: ")
    assert re.search(message, out)
    assert out.count("\n") == 1
    assert cli.main(["runs", "list", *at]) == 0
    out = capsys.readouterr().out
    assert out.startswith(run_id)
    assert out.count("\n") == 1
    for command in (
        ["evaluate", run_id, "--device", "cpu"],
        ["runs", "model", run_id, "--to", str(tmp_path / "model")],
    ):
        status = cli.main([*command, *at])
        err = capsys.readouterr().err
        if status:
            assert err.startswith("livt: error: ")
            assert err.count("\n") == 1
        else:  # what is wrong is in what this command does not look at
            assert what in {"no rows", "other epochs", "other settings"}
        assert "weights" not in what or (status == 2 and not (tmp_path / "model").exists())


def test_the_run_itself_still_arrives(trained, fine, tmp_path):
    """The same way through archive and seal, without damage."""
    run_id, files = sealed(files_of(trained, fine))
    assert run_id == fine
    store = RunStore(tmp_path / "runs")
    archive = tmp_path / "x.tar"
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{run_id}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert import_runs(store, archive) == {fine: True}
    assert store.load(fine).result == trained.load(fine).result
    assert load_file(store.weights(fine)).keys() == load_file(trained.weights(fine)).keys()


@pytest.mark.parametrize("content", [pytest.param(b"", marks=pytest.mark.slow), b"x"])
@pytest.mark.parametrize(("count", "message"), [(40_000, "is missing"), (60_000, "has more than 10000 runs")])
def test_very_many_members_are_refused_soon(tmp_path, content, count, message):
    archive = tmp_path / "x.tar"
    with open(archive, "wb") as file:
        for number in range(count):
            member = tarfile.TarInfo(f"pretrain-{number:012x}/config.json")
            member.size = len(content)
            file.write(member.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512))
        file.write(bytes(1024))
    started = time.process_time()
    with pytest.raises(RunError, match=f"{message}.*nothing was imported"):
        import_runs(RunStore(tmp_path / "runs"), archive)
    assert time.process_time() - started < 20
    assert not RunStore(tmp_path / "runs").ids()


def test_a_member_of_a_size_that_no_run_has_is_refused_before_it_is_copied(tmp_path):
    archive, run_id = tmp_path / "x.tar", "pretrain-000000000000"
    with open(archive, "wb") as file:
        member = tarfile.TarInfo(f"{run_id}/weights.safetensors")
        member.size = 2**33 - 1
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.truncate(2**33 + 1024)  # a file with a hole: it takes no room
    with pytest.raises(RunError, match="weights.safetensors has 8589934591 bytes, more than any run's"):
        import_runs(RunStore(tmp_path / "runs"), archive)


# ---------------------------------------------------------------- folders in the place of files, and deep JSON


@pytest.fixture
def copy(trained, tmp_path) -> RunStore:
    for run_id in trained.ids():
        shutil.copytree(trained.root / run_id, tmp_path / "runs" / run_id)
    return RunStore(tmp_path / "runs")


@pytest.mark.parametrize("what", ["a folder", "deep"])
@pytest.mark.parametrize("name", [*FILES, "proofs.json"])
def test_a_stored_file_that_cannot_be_read_is_named_with_its_remedy(capsys, copy, fine, name, what):
    path = copy.root / fine / name
    path.unlink(missing_ok=True)
    if what == "a folder":
        path.mkdir()
    else:
        path.write_bytes(DEEP)
    remedy = f"delete {path}" if name == "proofs.json" else f"delete the folder {path.parent} to train it anew"
    sweep = ["reproduce", "loss_ablation", "--suite", "smoke", "--seeds", "0", "--jobs", "1", "--quiet"]
    for command in (["evaluate", fine], ["finetune", "smoke", "--quiet"], sweep):
        assert cli.main([*command, "--device", "cpu", "--runs", str(copy.root)]) == 2
        err = capsys.readouterr().err.replace("\n", "", 1)
        assert err.startswith(f"livt: error: {path} ")
        assert err.endswith(remedy)
        assert "Errno" not in err
    assert cli.main(["runs", "list", "--runs", str(copy.root)]) == 0
    assert remedy in capsys.readouterr().out


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "resume.pt", "weights.safetensors"])
def test_a_folder_where_training_puts_a_file_is_named(capsys, trained, tmp_path, name):
    pre = next(i for i in trained.ids() if i.startswith("pretrain"))
    path = tmp_path / pre / name
    path.mkdir(parents=True)
    assert cli.main(["pretrain", "smoke", "--quiet", "--device", "cpu", "--runs", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"livt: error: {path} ")
    assert "move it away" in err
    assert "Errno" not in err
    assert err.count("\n") == 1
    path.rmdir()
    assert cli.main(["pretrain", "smoke", "--quiet", "--device", "cpu", "--runs", str(tmp_path)]) == 0


def test_a_folder_for_an_archive_is_named(capsys, tmp_path):
    assert cli.main(["runs", "import", str(tmp_path), "--runs", str(tmp_path / "runs")]) == 2
    told = f"{tmp_path} cannot be read (Is a directory): give a file that `runs export` wrote"
    assert capsys.readouterr().err == f"livt: error: {told}\n"


@pytest.mark.parametrize("what", ["a folder", "deep", "a list"])
def test_a_promoted_record_that_cannot_be_read_is_named(tmp_path, what):
    path = tmp_path / "finetune-000000000000.json"
    if what == "a folder":
        path.mkdir()
    else:
        path.write_bytes(DEEP if what == "deep" else b"[1]")
    with pytest.raises(RunError, match=f"^{path} ") as error:
        read_promoted(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**5, "[" * 40 + "]" * 40])
def test_deep_json_is_a_value_error(text):
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(text.encode())


def test_json_of_usual_depth_is_read_as_it_is():
    value = {"a": [1, -2.5, None, True, {"b": "text"}], "c": 2**62}
    assert parse_json(json.dumps(value).encode()) == value


# ---------------------------------------------------------------- a process that is killed

FAMILY = """
import os, sys
from filelock import FileLock
from livt.lab import orphans

sweep = os.getpid()
if os.fork() == 0:  # trains
    orphans.end_with(sweep)
    with FileLock(sys.argv[1]), orphans.none():
        if os.fork() == 0:  # loads images
            os.write(1, b"%d\\n" % os.getpid())
            while True:
                pass
        os.write(1, b"%d\\n" % os.getpid())  # at once, whoever else writes
        while True:  # no thread of its own gets to look
            pass
os.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread looks twice a second")
def test_a_killed_sweep_takes_its_trainings_and_their_loaders_with_it(tmp_path):
    """They compute, and hold the lock of a run: all are gone, and the lock is free, at once."""
    lock = tmp_path / "lock"
    sweep = subprocess.Popen([sys.executable, "-c", FAMILY, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        family = [int(sweep.stdout.readline()) for _ in range(2)]
        with pytest.raises(Timeout):
            FileLock(lock).acquire(timeout=0)
    finally:
        sweep.kill()
        sweep.wait()
    end = time.monotonic() + 20
    while any(map(runs_on, family)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(runs_on, family))
    with FileLock(lock, timeout=0):
        pass


def runs_on(process: int) -> bool:
    """Whether a process, which may be nobody's to reap, has not ended."""
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_sweep_is_one_line_and_its_own_status(capsys, monkeypatch, number):
    def ended(_: object) -> int:
        with _signals_raised():
            os.kill(os.getpid(), number)
            time.sleep(10)
        raise AssertionError("it has not ended")

    signal.signal(number, signal.SIG_DFL)  # the tests may run under nohup
    monkeypatch.setattr(cli, "_run", ended)
    before = signal.signal(number, signal.SIG_DFL)  # a nohup of the tests would have it ignored
    try:
        assert cli.main(["reproduce", "loss_ablation"]) == 128 + number
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    told = f"\nlivt: interrupted; {number.name}: the same command goes on from the last saved epoch\n"
    assert capsys.readouterr().err == told


def test_a_sweep_under_nohup_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _signals_raised():
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(Ended, match="SIGTERM"):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
