"""Networks `original`: the details of the authors' program, github.com/deepgenerativeclassifier/DeepBayes."""

import dataclasses
import json

import pytest
import torch
from support import TINY
from torch.nn import functional as F

from pyrobayes import BayesClassifier, Networks, TrainingOptions, build, fit, load
from pyrobayes.codec import decode
from pyrobayes.factorizations.networks import Decoder, ImageFeatures
from pyrobayes.options import MODELS, NETWORKS, RECIPES
from pyrobayes.training.bounds import Inference

ORIGINAL = dataclasses.replace(TINY, original=True)


@pytest.mark.parametrize(("model", "layers"), [("gfz", 2), ("gbz", 3), ("dfx", 2), ("dfz", 2), ("dbx", 2)])
def test_p_y_has_the_originals_hidden_layers(model, layers):
    assert len(build(model, ORIGINAL).p_y.network.layers) == layers


def test_weights_start_as_in_the_original_and_decoders_have_no_bias():
    factorization = build("gfz", "original")
    assert [name for name, _ in factorization.p_x.named_parameters() if name.endswith("bias")] == [
        "network.layers.0.bias",  # of layers that aren't convolutions
        "decoder.linear.bias",
    ]
    for name, parameter in factorization.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "decoder.convolutions" in name:  # [in, out, 5, 5]
            bound = 1 / (25 * parameter.shape[1])
            assert 0.95 * bound < parameter.abs().max() <= bound
        else:
            fans = sum(parameter.shape[:2]) * parameter[0, 0].numel()
            assert parameter.std().item() == pytest.approx((2 / fans) ** 0.5, rel=0.05), name
            uniform = parameter.abs().max() <= (6 / fans) ** 0.5
            assert uniform == ("encoders" not in name), name


def same(x, weight, bias):
    """TensorFlow's convolution with stride 2 and padding SAME: an odd total puts the larger part behind."""
    totals = [max(2 * (-(-size // 2) - 1) + 5 - size, 0) for size in x.shape[:1:-1]]
    return F.conv2d(F.pad(x, [part for total in totals for part in (total // 2, total - total // 2)]), weight, bias, 2)


@pytest.mark.parametrize("size", [28, 32])
def test_padding_is_that_of_tensorflow_on_images_turned_by_half_a_turn(size):
    """Ours begins at the other side of even images. Kernels turned by half a turn make up for it, at every size."""
    shape = (1, size, size)
    features, decoder = ImageFeatures(shape, (2, 3, 4), 5).double(), Decoder(shape, (2, 3, 4), 5).double()
    x = out = torch.rand(2, *shape, dtype=torch.float64)
    turned = x.flip(2, 3)
    for layer in features.convolutions:
        turned, out = layer(turned), same(out, layer.weight.flip(2, 3), layer.bias)
        torch.testing.assert_close(turned.flip(2, 3), out)
    hidden = torch.rand(2, *decoder.smallest, dtype=torch.float64)
    turned, out = hidden.flip(2, 3), hidden
    for layer in decoder.convolutions:  # TensorFlow's transposed convolution is the gradient of its convolution
        image = torch.zeros(2, layer.out_channels, *layer.after, dtype=torch.float64, requires_grad=True)
        convolved = same(image, layer.weight.flip(2, 3), None)
        (out,) = torch.autograd.grad(convolved, image, out)
        turned = F.conv_transpose2d(turned, layer.weight, None, 2, 2, layer.output_padding)
        torch.testing.assert_close(turned.flip(2, 3), out)


@pytest.mark.parametrize("model", MODELS)
def test_original_networks_are_trained_saved_and_loaded(model, tmp_path, tiny_images):
    factorization = build(model, ORIGINAL, image_shape=(1, 7, 7))
    fit(factorization, tiny_images.head(60), TrainingOptions(epochs=1, lr=0.1), out=tmp_path, progress=False)
    loaded, x = load(tmp_path, device="cpu", noise="fixed"), tiny_images.batch(torch.arange(3))[0]
    torch.testing.assert_close(loaded(x), BayesClassifier(factorization, noise="fixed")(x), rtol=0, atol=0)
    torch.testing.assert_close(loaded.replaced(precision="bf16")(x), loaded(x), rtol=0.05, atol=0.5)
    for module in loaded.factorization.modules():
        if isinstance(module, Decoder):
            assert not any(layer.bias.any() for layer in module.convolutions)


def test_a_reproduction_with_original_networks_trains_on_all_images():
    recipe = dataclasses.replace(RECIPES["poster"], networks="original")
    assert recipe.changes("gfz", TrainingOptions) == RECIPES["poster"].changes("gfz", TrainingOptions) | {
        "all_images": True
    }
    assert recipe.changes("gfz", Networks) == {}


def test_configurations_from_before_are_read():
    stored = {"latent": 64, "hidden": 500, "channels": 64, "likelihood": "gaussian", "variance": 0.5}
    assert decode(Networks, stored) == NETWORKS["paper"]
    assert decode(Networks, json.loads(json.dumps(vars(NETWORKS["original"])))) == NETWORKS["original"]


@pytest.mark.parametrize(("all_images", "trained"), [(None, 220), (True, 240)])
def test_all_images_are_trained_on(all_images, trained, monkeypatch, tiny_images):
    seen, step = [], Inference.step
    monkeypatch.setattr(Inference, "step", lambda self, x, *more: seen.append(len(x)) or step(self, x, *more))
    factorization = build("gby", TINY, image_shape=(1, 7, 7))
    fit(factorization, tiny_images, TrainingOptions(epochs=1, all_images=all_images), progress=False)
    assert sum(seen) == trained
    counts = factorization.p_y.frequencies * trained
    torch.testing.assert_close(counts, counts.round())
    assert (counts.round() == tiny_images.labels.bincount()).all() == bool(all_images)
