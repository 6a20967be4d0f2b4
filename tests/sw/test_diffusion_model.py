"""The small diffusion model, its data, prompts and classifier, as they come with the package."""

import json

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import UNet2DConditionModel

from helpers.same_values import assert_same_values
from loralith.diffusion.classifier import classify, load_classifier
from loralith.diffusion.data import class_images, labelled_images, personal_images
from loralith.diffusion.determinism import generator
from loralith.diffusion.digits import DIGITS, HELD_OUT, KNOWN, TRAINING_IMAGES
from loralith.diffusion.objective import draw_step, held_out_loss
from loralith.diffusion.prompt import TOKENS, PromptEncoder, digit_prompt, tokenize
from loralith.diffusion.schedule import noise_schedule
from loralith.diffusion.unet import WEIGHTS_FILE, assets, load_model
from loralith.errors import LoralithError


def test_images_are_the_whole_data_set_in_two_parts() -> None:
    train, _ = labelled_images(DIGITS, evaluation=False)
    test, _ = labelled_images(DIGITS, evaluation=True)
    assert len(train) + len(test) == 1797
    assert train.shape[1:] == (1, 16, 16)
    assert train.min() == -1.0
    assert train.max() == 1.0
    seen = {image.numpy().tobytes() for image in train}
    assert not any(image.numpy().tobytes() in seen for image in test)


def test_personal_images_follow_the_seed() -> None:
    first = personal_images(8, 20, 5)
    assert_same_values(first, personal_images(8, 20, 5))
    assert not torch.equal(first, personal_images(8, 20, 6))
    assert_same_values(first[:3], personal_images(8, 3, 5), "fewer images are the first of more")
    pool = {image.numpy().tobytes() for image in class_images(8, evaluation=False)}
    assert {image.numpy().tobytes() for image in first} <= pool
    assert len({image.numpy().tobytes() for image in first}) == 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: personal_images(3, 20, 0), "held-out classes 8 and 9, which the model has never seen, not 3"),
        (lambda: personal_images(8, 0, 0), "images must be 1 to 139 .* not 0"),
        (lambda: personal_images(8, 140, 0), "images must be 1 to 139 .* not 140"),
        (lambda: class_images(10, evaluation=True), "digit must be one of 0..9, not 10"),
        (lambda: tokenize("a drawing of cat"), "word 'cat' is not in the vocabulary"),
        (lambda: tokenize("a a a a a a"), "at most 5 words, not 6"),
    ],
)
def test_bad_request_is_named(call, message: str) -> None:
    with pytest.raises(LoralithError, match=message):
        call()


def test_draws_depend_on_their_names_alone() -> None:
    torch.manual_seed(1)
    first = torch.rand(4, generator=generator("test", 7, 3))
    torch.manual_seed(2)
    assert_same_values(first, torch.rand(4, generator=generator("test", 7, 3)))
    for other in (generator("test", 7, 4), generator("test", 8, 3), generator("tess", 7, 3), generator("test", 73)):
        assert not torch.equal(first, torch.rand(4, generator=other))


def test_draw_of_a_step_needs_no_earlier_step() -> None:
    images = torch.zeros(20, 1, 16, 16)
    late = draw_step("finetune", 3, 150, batch=5, images=images, dropout=0.5)
    again = draw_step("finetune", 3, 150, batch=5, images=images, dropout=0.5)
    for name in ("picks", "timesteps", "dropped", "noise"):
        assert_same_values(getattr(late, name), getattr(again, name))
    assert sorted((late.timesteps * 5 // 1000).tolist()) == [0, 1, 2, 3, 4], "one time step from each fifth of the schedule"
    assert not torch.equal(late.noise, draw_step("finetune", 3, 151, batch=5, images=images, dropout=0.5).noise)


def test_model_is_small_and_its_weights_a_few_megabytes() -> None:
    unet, _ = load_model()
    assert 1.0e6 < sum(tensor.numel() for tensor in unet.parameters()) < 1.5e6
    assert (assets() / "unet" / WEIGHTS_FILE).stat().st_size < 4e6
    assert not any(tensor.requires_grad for tensor in unet.parameters())


def test_stock_diffusers_loads_the_model() -> None:
    ours, encoder = load_model()
    stock = UNet2DConditionModel.from_pretrained(assets() / "unet").eval()
    assert stock.dtype == torch.float32
    random = generator("test stock")
    images, times = torch.randn(2, 1, 16, 16, generator=random), torch.tensor([20, 900])
    with torch.no_grad():
        condition = encoder.encode(digit_prompt(3), 2)
        torch.testing.assert_close(stock(images, times, condition).sample, ours(images, times, condition).sample, atol=1e-4, rtol=1e-4)


def test_words_of_held_out_digits_were_never_trained() -> None:
    _, encoder = load_model()
    fresh = PromptEncoder().table.weight.to(torch.float16).to(torch.float32)
    for digit in DIGITS:
        row = TOKENS.index(str(digit))
        assert torch.equal(encoder.table.weight[row], fresh[row]) == (digit in HELD_OUT)


def test_model_knows_its_digits_and_not_the_held_out_ones() -> None:
    unet, encoder = load_model()
    losses = []
    for digit in (KNOWN[3], HELD_OUT[0]):
        images = class_images(digit, evaluation=True)
        losses.append(held_out_loss(unet, noise_schedule(), images, encoder.encode(digit_prompt(digit)), rounds=2))
    assert losses[0] < 0.8 * losses[1]


def test_classifier_recognizes_all_ten_digits() -> None:
    images, labels = labelled_images(DIGITS, evaluation=True)
    right = classify(load_classifier(), images) == labels
    assert right.float().mean() > 0.97
    for digit in HELD_OUT:
        assert right[labels == digit].float().mean() > 0.9


def test_damaged_weights_are_named(tmp_path) -> None:
    for name in ("config.json", WEIGHTS_FILE, "tokens.safetensors"):
        (tmp_path / name).write_bytes((assets() / "unet" / name).read_bytes())
    load_model(tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes((tmp_path / WEIGHTS_FILE).read_bytes()[:100_000])
    with pytest.raises(LoralithError, match=WEIGHTS_FILE):
        load_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for changed, message in (
        ({"in_channels": 4}, r"config\.json has in_channels 4; the images and prompts here need 1"),
        ({"cross_attention_dim": 768}, "has cross_attention_dim 768; .* need 64"),
        ({"_class_name": "AutoencoderKL"}, "is of a AutoencoderKL; a UNet2DConditionModel is what can be used here"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **changed}))
        with pytest.raises(LoralithError, match=message):
            load_model(tmp_path)
    (tmp_path / "classifier.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(LoralithError, match=r"classifier\.safetensors"):
        load_classifier(tmp_path)


def test_settings_know_how_many_images_there_are():
    """A constant, so that settings are checked before torch and the images are loaded."""
    assert {digit: len(class_images(digit, evaluation=False)) for digit in HELD_OUT} == TRAINING_IMAGES
