"""A user's own encoder and decoder: the same numbers as the package's networks, in training, attacks, files and commands."""

import re

import numpy as np
import pytest
import torch
from support import invoke
from torch import nn

from pyrobayes import BayesClassifier, Images, InputError, Networks, TrainingOptions, build, fit, load, pretrained
from pyrobayes.attacks import FGSM
from pyrobayes.factorizations.networks import Decoder, ImageFeatures
from pyrobayes.factorizations.own_networks import OwnNetwork
from pyrobayes.options import MODELS

SHAPE, HIDDEN = (3, 6, 4), 8
SIZES = {"networks": Networks(latent=3, hidden=HIDDEN), "image_shape": SHAPE, "num_classes": 3}


class Encoder(nn.Module):
    """Layers that differ in training, and a weight that nothing uses."""

    def __init__(self, features=5):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2))
        self.last, self.unused = nn.LazyLinear(features), nn.Parameter(torch.zeros(2))

    def forward(self, x):
        assert x.shape[1:] == SHAPE  # one batch, no plates
        return self.last(self.layers(x))


class Mean(nn.Module):
    def __init__(self, shape=SHAPE):
        super().__init__()
        self.shape, self.linear = shape, nn.Linear(HIDDEN, SHAPE[0] * SHAPE[1] * SHAPE[2])

    def forward(self, hidden):
        assert hidden.shape[1:] == (HIDDEN,)
        return self.linear(hidden).view(-1, *self.shape)


@pytest.fixture
def images():
    x = torch.rand(24, *SHAPE, generator=torch.Generator().manual_seed(0))
    return Images.from_arrays(x, torch.arange(24) % 3)


@pytest.mark.parametrize(
    ("model", "estimator"), [(model, "per-class") for model in (*MODELS, "cnn", "bnn")] + [("gbz", "mixture")]
)
def test_own_networks_compute_what_ours_do(model, estimator):
    ours = build(model, Networks(latent=3, hidden=HIDDEN, channels=(4, 4)), image_shape=SHAPE, num_classes=3)
    own = build(model, **SIZES, encoder=ImageFeatures(SHAPE, (4, 4), HIDDEN), decoder=Decoder(SHAPE, (4, 4), HIDDEN))
    layer = re.compile(r"(encoders\.\d+|decoder)\.network\.")  # where the own network is, within a factor
    ours.load_state_dict({layer.sub(r"\1.", key): value for key, value in own.state_dict().items()})
    x = torch.rand(5, *SHAPE, requires_grad=True)
    results = []
    for factorization in (own, ours):
        log_joint = BayesClassifier(factorization, 4, "fixed", estimator=estimator)(x)
        results.append((log_joint, *torch.autograd.grad(log_joint.diff(dim=1).sum(), x)))
    torch.testing.assert_close(*results)
    assert results[0][1].any()


@pytest.mark.parametrize(
    "options",
    [{"precision": "bf16"}, {"compile": True}, {"negligible": 0.01}, {"prune": 50.0}],
    ids=str,
)
def test_what_is_fast_for_our_networks_leaves_own_ones_as_they_are(options, images):
    factorization = build("gfz", **SIZES, encoder=Encoder(), decoder=Mean()).requires_grad_(False)
    x, classifier = images.batch(torch.arange(6))[0], BayesClassifier(factorization, 10, "fixed")
    faster = classifier.replaced(**options)
    difference = (faster(x) - classifier(x)).abs().max()
    assert difference < 0.05
    assert torch.autograd.grad(faster(x.requires_grad_()).diff().sum(), x)[0].any()
    copied = [each for each in faster._networks.of(faster.options).modules() if isinstance(each, OwnNetwork)]
    for each, original in zip(copied, own_networks(factorization), strict=True):
        assert all(torch.equal(*pair) for pair in zip(each.state_dict().values(), original.state_dict().values()))


def own_networks(factorization):
    return [module for module in factorization.modules() if isinstance(module, OwnNetwork)]


@pytest.mark.parametrize(
    "changes", [{}, {"averaging": 0.9, "train_particles": 2, "adversarial_eps": 0.1, "adversarial_steps": 1}], ids=str
)
def test_a_model_of_own_networks_trains_is_attacked_saved_and_loaded(tmp_path, images, changes):
    encoder, decoder = Encoder(), Mean()
    given = {"encoder": encoder, "decoder": decoder}
    options = TrainingOptions(epochs=1, batch_size=8, lr=1e-2, **changes)
    factorization = build("dfz", **SIZES, **given)
    before = {key: value.clone() for key, value in factorization.state_dict().items()}
    epochs = fit(factorization, images, options, out=tmp_path, progress=False)
    after = factorization.state_dict()
    assert not torch.equal(after["p_x.decoder.network.linear.weight"], before["p_x.decoder.network.linear.weight"])
    steps = {key: value.item() for key, value in after.items() if key.endswith("num_batches_tracked")}
    assert list(steps.values()) == [3, 3]  # a training step alone changes them, of the guide and of p(y|z, x)
    assert not factorization.training

    loaded = load(tmp_path, device="cpu", noise="fixed", **given)
    x, y = images.batch(torch.arange(6))[:2]
    torch.testing.assert_close(loaded(x), BayesClassifier(factorization, noise="fixed")(x), rtol=0, atol=0)
    torch.testing.assert_close(loaded(x)[:2], loaded(x[:2]))  # batches don't mix
    assert loaded.factorization.networks == Networks(3, HIDDEN, encoder="Encoder", decoder="Mean")
    assert (FGSM()(loaded, x, y, 0.1) != x).any()
    again = build("dfz", **SIZES, **given)
    assert fit(again, images, options, out=tmp_path, resume=True, progress=False) == epochs
    torch.testing.assert_close(again.state_dict(), after)
    assert isinstance(encoder.last, nn.LazyLinear) and encoder.training  # the user's own objects stay as they were


def test_a_run_says_what_it_needs_and_the_command_line_that_it_has_no_code(tmp_path, images):
    np.savez(tmp_path / "mine.npz", images=images.pixels.numpy(), labels=images.labels.numpy())
    own = build("gbz", **SIZES, encoder=Encoder())
    options = TrainingOptions(epochs=1)
    fit(own, Images.from_npz(tmp_path / "mine.npz"), options, out=tmp_path / "gbz", progress=False)
    with pytest.raises(InputError, match=r"gbz has an own encoder, Encoder, .* pyrobayes.load .*\(encoder=...\)"):
        load(tmp_path / "gbz")
    with pytest.raises(
        InputError, match=r"model.safetensors doesn't fit the encoder .*\[5, 32\], expected float32 \[7, 32\]"
    ):
        load(tmp_path / "gbz", encoder=Encoder(7))
    with pytest.raises(InputError, match="was trained without an own decoder: leave decoder out"):
        load(tmp_path / "gbz", encoder=Encoder(), decoder=Mean())
    with pytest.raises(InputError, match="was trained without an own encoder"):
        pretrained("gbz", encoder=nn.Flatten())
    for command in (["evaluate", "gbz"], ["train", "gbz", "--resume"]):
        outcome = invoke(*command, "--runs", tmp_path)
        assert outcome.exit_code and "whose code no run holds" in outcome.output
        assert len([line for line in outcome.output.splitlines() if line.startswith("Error")]) == 1


class InPlace(nn.Module):
    def forward(self, x):
        return x.sub_(0.5).flatten(1)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"encoder": Encoder}, "encoder must be a torch.nn.Module, got type"),
        ({"encoder": nn.Conv2d(3, 4, 3)}, r"features \[B, F\] .* it gives \[2, 4, 4, 2\]"),
        ({"encoder": nn.Conv2d(1, 4, 3)}, r"take images \[B, 3, 6, 4\] .* it fails: .*channels"),
        ({"encoder": nn.Sequential(nn.Flatten(), nn.LSTM(72, 3))}, "it gives tuple"),
        ({"encoder": nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, 144)))}, r"it gives \[1, 144\]"),
        ({"encoder": nn.Sequential(nn.Flatten(), nn.LayerNorm(72, eps=0.0))}, "infinite values or NaN"),
        ({"encoder": InPlace()}, "changes its input in place"),
        ({"decoder": Mean((3, 4, 6))}, r"hidden vectors \[B, 8\] .* pixels, \[B, 3, 6, 4\]; .* gives \[2, 3, 4, 6\]"),
        ({"decoder": Encoder()}, "the decoder Encoder must take hidden vectors .* it fails"),
    ],
)
def test_own_networks_of_wrong_shapes_are_refused(own, message):
    with pytest.raises(InputError, match=message):
        build("gbz", **SIZES, **own)


class Copies(nn.Module):
    def forward(self, x):
        out = torch.zeros(x.shape)
        out.copy_(x)  # what follows the values through the model loses them here
        return out.flatten(1)


def test_the_output_of_an_own_network_depends_on_its_input():
    factorization = build("dfx", **SIZES, encoder=Copies())
    assert factorization.parents() == {"x": [], "z": ["x"], "y": ["x", "z"]}
