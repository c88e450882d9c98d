"""Files that somebody made to do harm: one clear line, soon, and nothing is run, moved or exhausted."""

import zipfile

import pytest
import torch

from livt.mae import MaskedAutoencoder, load_mae_checkpoint
from livt.models import MAX_BLOCKS, create_vit, load_livt_checkpoint

ONE = torch.zeros(1)

# ---------------------------------------------------------------- public checkpoints


def classifier() -> dict[str, torch.Tensor]:
    return create_vit("pico", 32, 4, 7).state_dict()


@pytest.mark.timeout(60)
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
