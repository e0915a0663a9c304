"""Classifiers of users: any module from images to logits is attacked, evaluated and judged as it is."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from support import TINY
from torch import nn
from torch.nn import functional as F

import pyrobayes
from pyrobayes import BayesClassifier, InputError, ModuleClassifier, RobustnessOptions, attacks
from pyrobayes.evaluation.robustness.checks import FAIL, NOT_APPLICABLE
from pyrobayes.inference.modules import BY_CALLS, NO_PARTICLES, as_classifier

QUIET = {"progress": False}


def fitted(layers, images, scale=lambda x: x):
    """A module after a few steps on scaled images, in eval mode."""
    torch.manual_seed(0)
    module = nn.Sequential(*layers())
    adam, (x, y) = torch.optim.Adam(module.parameters(), 0.02), images.batch(slice(None))
    for _ in range(40):
        adam.zero_grad()
        F.cross_entropy(module(scale(x)), y).backward()
        adam.step()
    return module.eval()


def convolutions():
    yield from (
        nn.Conv2d(1, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )


@pytest.fixture(scope="module")
def cnn(tiny_images):
    """A small CNN with BatchNorm and Dropout."""
    return fitted(convolutions, tiny_images)


class Then(nn.Module):
    """Something done to what a module gives."""

    def __init__(self, module, change):
        super().__init__()
        self.inner, self.change = module, change

    def forward(self, x):
        return self.change(self.inner(x))


class Before(Then):
    """Something done to the images, such as by a purifier."""

    def forward(self, x):
        return self.inner(self.change(x))


class SmoothedVote(nn.Module):
    """Randomized smoothing: the mean posterior over noisy copies."""

    def __init__(self, module, sigma=0.1, copies=4):
        super().__init__()
        self.inner, self.sigma, self.copies = module, sigma, copies

    def forward(self, x):
        noisy = x + self.sigma * torch.randn(self.copies, *x.shape)
        return self.inner(noisy.flatten(0, 1)).unflatten(0, (self.copies, -1)).log_softmax(2).logsumexp(0)


class BayesianLinear(nn.Module):
    """A BNN: weights are drawn at every call."""

    def __init__(self):
        super().__init__()
        self.mean, self.log_scale = nn.Parameter(torch.randn(10, 49)), nn.Parameter(torch.full((10, 49), -1.0))

    def forward(self, x):
        return x.flatten(1) @ (self.mean + self.log_scale.exp() * torch.randn_like(self.mean)).T


def dropout_kept_on(cnn):
    kept = fitted_copy(cnn)
    kept[4].train()
    return kept


def fitted_copy(cnn):
    copy = nn.Sequential(*convolutions())
    copy.load_state_dict(cnn.state_dict())
    return copy.eval()


RANDOM = {
    "dropout": dropout_kept_on,
    "smoothing": SmoothedVote,
    "bnn": lambda cnn: BayesianLinear(),
    "purifier": lambda cnn: Before(cnn, lambda x: (x + 0.05 * torch.randn_like(x)).clamp(0, 1)),
    "numpy": lambda cnn: Then(cnn, lambda logits: logits + torch.as_tensor(np.random.randn(*logits.shape)).float()),
}


def test_a_cnn_gets_what_its_own_predictions_say(cnn, tiny_images):
    few = tiny_images.head(60)
    x, y = few.batch(slice(None))
    result = pyrobayes.evaluate(cnn, few, **QUIET)
    assert result.accuracy.count == int((cnn(x).argmax(1) == y).sum()) and result.model == "Sequential"
    assert result.negative_log_likelihood == pytest.approx(F.cross_entropy(cnn(x), y).item(), rel=1e-4)
    assert result.log_evidence is result.effective_sample_size is None and result.flipped_by_resampling.count == 0
    assert result.caveats == (NO_PARTICLES,) and NO_PARTICLES in repr(result)
    attacked = pyrobayes.attack(cnn, few, [0.0, 0.1], name="mine", **QUIET)
    images = (x + 0.1 * torch.autograd.grad(F.cross_entropy(cnn(x.requires_grad_()), y), x)[0].sign()).clamp(0, 1)
    assert attacked.success(1).count == int((cnn(images).argmax(1) != y).sum()) and attacked.model == "mine"
    assert attacked.caveats == (NO_PARTICLES,)
    assert pyrobayes.evaluate(nn.DataParallel(cnn), few, **QUIET) == result


@pytest.mark.parametrize("kind", RANDOM)
def test_draws_of_a_random_module_are_calls_that_can_be_repeated(kind, cnn, tiny_images):
    module, few = RANDOM[kind](cnn), tiny_images.head(20)
    modes, before = [each.training for each in module.modules()], torch.get_rng_state()
    state = np.random.get_state()[1].copy()
    first, again = (pyrobayes.evaluate(module, few, **QUIET) for _ in range(2))
    assert first == again and first.flipped_by_resampling.count > 0 and BY_CALLS in first.caveats
    assert torch.equal(torch.get_rng_state(), before) and (np.random.get_state()[1] == state).all()
    assert [each.training for each in module.modules()] == modes
    x, y = few.batch(slice(None))
    classifier = as_classifier(module, x).for_images(torch.arange(20))
    assert classifier.random and not classifier.addressable
    assert torch.equal(classifier.resampled(3)(x), classifier.resampled(3)(x))
    assert not torch.allclose(classifier.resampled(3)(x), classifier(x))
    fixed = classifier.replaced(noise="fixed")
    assert torch.equal(fixed(x), fixed.resampled(3)(x)) and not fixed.random
    assert torch.equal(*(attacks.get("pgd", steps=2)(module, x, y, 0.1) for _ in range(2)))


def test_a_random_module_gets_a_verdict_by_further_draws(cnn, tiny_images, quickly_broken):
    options = RobustnessOptions(images=4, steps=1, redraws=2, checked_images=2, eps=(0.1,))
    module = dropout_kept_on(cnn)
    verdict = pyrobayes.assess(module, tiny_images, tiny_images, options, name="mine", sources=[cnn], **QUIET)
    assert verdict.model == "mine" and BY_CALLS in verdict.caveats and len(verdict.broken_in_most) == 1
    assert {"eot-mim", "transfer"} <= verdict.success.keys() and verdict.options["transfer"]["sources"] == [
        "Sequential"
    ]
    by_number = {check.number: check for check in verdict.checks}
    assert by_number[12].status == NOT_APPLICABLE and "can't be bound to an image" in by_number[12].finding
    assert "particles" not in by_number[6].finding


def test_a_module_gets_the_kl_test_alone_and_certificates(cnn, tiny_images):
    few = tiny_images.head(30)
    detector, result = pyrobayes.fit_detector(cnn, tiny_images, **QUIET), pyrobayes.attack(cnn, few, [0.1], **QUIET)
    assert detector.thresholds.keys() == {"kl"}
    found = pyrobayes.evaluation.detection.detect(detector, result, "kl")
    assert found.meaningful and found.success[0] == result.success(0) and found.caveats == (NO_PARTICLES,)
    with pytest.raises(InputError, match=r"the logit test needs log p\(x, y\), and .* logits alone: take kl"):
        pyrobayes.evaluation.detection.detect(detector, result, "logit")
    certified = pyrobayes.certify(cnn, few.head(2), draws=20, selection_draws=5, **QUIET)
    assert certified.draws == 20 and certified.model == "Sequential"
    substitute = pyrobayes.distill(cnn, few, networks=TINY, epochs=1)
    assert substitute.name == "cnn" and substitute.num_classes == 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": attacks.get("pgd", steps=1, snapshot=True)}, "snapshot .* need a BayesClassifier, got Sequential"),
        ({"by": attacks.get("pgd", steps=1, term="y")}, "term, .* need a BayesClassifier, got Sequential"),
        ({"attacker": {"particles": 3}}, "Sequential gives logits alone, and has no particles: leave that out"),
        ({"attacker": {"estimator": "mixture"}}, "has no estimator: leave that out"),
        ({"name": "a/b"}, "name must be of letters, digits, - and _"),
    ],
)
def test_what_needs_particles_is_left_out_in_one_line(options, words, cnn, tiny_images):
    with pytest.raises(InputError, match=words):
        pyrobayes.attack(cnn, tiny_images.head(4), [0.1], **options, **QUIET)


def test_whether_a_module_is_random_may_be_told(cnn, tiny_images):
    x, _ = tiny_images.head(4).batch(slice(None))
    assert as_classifier(ModuleClassifier(cnn, random=True), x).random
    told = as_classifier(ModuleClassifier(SmoothedVote(cnn), random=False, seed=3, name="mine"), x)
    assert not told.random and told.addressable and (told.name, told.options.seed) == ("mine", 3)
    with pytest.raises(InputError, match="BayesClassifier|is a classifier already"):
        ModuleClassifier(told)
    with pytest.raises(InputError, match="classifier must be an nn.Module or a function of images .*, got type"):
        ModuleClassifier(nn.Linear)


def spoiled(cnn, images):
    """A module that silently spoils an evaluation, and the sentence that says so."""
    trained = fitted_copy(cnn).train()
    by_255, standardised = (fitted(convolutions, images, scale) for scale in (lambda x: 255 * x, lambda x: 8 * x - 4))
    never = torch.Generator().manual_seed(0)
    return {
        "train mode": (trained, "in train mode, and is evaluated in eval mode; to keep Dropout on, call eval"),
        "probabilities": (Then(cnn, lambda z: z.softmax(1)), "gives probabilities, and their log is taken"),
        "constant": (Then(cnn, lambda z: 0 * z), "the same logits for 16 different images"),
        "0 to 255": (by_255, "with pixels from 0 to 255: put a layer in front of it that scales them"),
        "normalised": (standardised, "put a layer in front of it that scales them"),
        "own generator": (Then(cnn, lambda z: z + torch.randn(z.shape, generator=never)), "results can't be repeated"),
        "NaN": (Then(cnn, lambda z: z / 0 * 0), "gives NaN or infinite logits for 16 of 16 images"),
        "tuple": (Then(cnn, lambda z: (z, z)), r"logits, \[16, C\], got tuple: let a module of yours choose"),
        "one logit": (Then(cnn, lambda z: z[:, :1]), r"two classes, got .* \[B, 1\]: where one logit tells two"),
        "whole numbers": (Then(cnn, lambda z: z.long()), "as floats, got torch.int64"),
        "other images": (nn.Linear(3, 10), r"Linear doesn't run on images \[16, 1, 7, 7\]: RuntimeError: mat1"),
    }


def test_what_silently_spoils_an_evaluation_is_said(cnn, tiny_images):
    for case, (module, words) in spoiled(cnn, tiny_images).items():
        if case in ("NaN", "tuple", "one logit", "whole numbers", "other images"):
            with pytest.raises(InputError, match=words):
                pyrobayes.evaluate(module, tiny_images, **QUIET)
            continue
        with pytest.warns(UserWarning, match=words) as told:
            result = pyrobayes.evaluate(module, tiny_images, **QUIET)
        assert len(told) == 1 and told[0].filename == __file__, case
        assert str(told[0].message).endswith(
            result.caveats[0] if case not in ("0 to 255", "normalised") else result.caveats[-1]
        )


def test_a_module_in_train_mode_is_attacked_in_eval_mode_and_put_back(cnn, tiny_images):
    x, y = tiny_images.head(40).batch(slice(None))
    trained = fitted_copy(cnn).train()
    statistics = {name: value.clone() for name, value in trained.state_dict().items()}
    with pytest.warns(UserWarning, match="was in train mode"):
        found = attacks.fgsm(trained, x, y, eps=0.05)
    assert torch.equal(found, attacks.fgsm(cnn, x, y, eps=0.05))
    assert all(each.training for each in trained.modules())
    assert all(torch.equal(value, statistics[name]) for name, value in trained.state_dict().items())


def test_a_normalising_layer_in_train_mode_is_switched_off_although_dropout_is_kept_on(cnn, tiny_images):
    module = dropout_kept_on(cnn)
    module[1].train()
    statistics = module[1].running_mean.clone()
    with pytest.warns(UserWarning, match="was in train mode"):
        result = pyrobayes.evaluate(module, tiny_images.head(20), **QUIET)
    assert BY_CALLS in result.caveats and module[1].training and torch.equal(module[1].running_mean, statistics)


def test_a_module_without_layers_that_ask_for_the_mode_is_not_warned_of(tiny_images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pyrobayes.evaluate(nn.Sequential(nn.Flatten(), nn.Linear(49, 10)), tiny_images.head(20), **QUIET)


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_probabilities_are_attacked_as_their_logits_are(name, cnn, tiny_images):
    x, y = tiny_images.head(40).batch(slice(None))
    sharp, attack = Then(cnn, lambda z: 200 * z), attacks.get(name, **({"steps": 5} if name == "pgd" else {}))
    expected = attack(sharp, x, y, eps=0.05)
    for softmax in (
        lambda z: z.softmax(1),
        nn.Softmax(1),
        lambda z: F.softmax(input=z, dim=1),
        lambda z: torch.softmax(z, 1),
    ):
        with pytest.warns(UserWarning, match="gives probabilities"):
            assert torch.equal(attack(Then(sharp, softmax), x, y, eps=0.05), expected)  # saturated, but not spoiled
    sharp = Then(cnn, lambda z: 5 * z)
    with pytest.warns(UserWarning, match="gives probabilities"):
        found = attack(Then(sharp, lambda z: z.log_softmax(1).exp()), x, y, eps=0.05)
    assert (cnn(found).argmax(1) == y).sum() == pytest.approx(
        (cnn(attack(sharp, x, y, eps=0.05)).argmax(1) == y).sum(), abs=1
    )


def test_no_gradient_is_said(cnn, tiny_images):
    few = tiny_images.head(20)
    stepwise = Before(cnn, lambda x: x + (x.round() - x).detach() - (x - x.detach()))
    x, y = few.batch(slice(None))
    right = int((stepwise(x).argmax(1) == y).sum())  # the others need none
    with pytest.warns(UserWarning, match=f"gave fgsm no gradient other than zero for {right} of 20 images"):
        attacks.fgsm(stepwise, x, y, eps=0.1)
    assert "no gradient for 20 images, whose robustness is not known" in repr(
        pyrobayes.attack(stepwise, few, [0.1], **QUIET)
    )


def test_nan_logits_of_an_adversarial_image_are_said(cnn, tiny_images):
    x, y = tiny_images.head(8).batch(slice(None))
    moved = Before(cnn, lambda images: images / (torch.equal(images.detach(), x)))
    with pytest.raises(InputError, match="gives NaN or infinite logits for 8 of 8 images"):
        attacks.get("pgd", steps=1)(moved, x, y, eps=0.1)


@pytest.mark.parametrize("wrapped", [nn.DataParallel, nn.Sequential, lambda each: each.as_logits()])
def test_wrappers_around_a_classifier_of_ours_are_looked_through(wrapped, make, tiny_images):
    classifier, few = BayesClassifier(make("gbz"), particles=2), tiny_images.head(8)
    x, y = few.batch(slice(None))
    assert torch.equal(attacks.fgsm(wrapped(classifier), x, y, 0.1), attacks.fgsm(classifier, x, y, 0.1))
    assert pyrobayes.evaluate(wrapped(classifier), few, **QUIET) == pyrobayes.evaluate(classifier, few, **QUIET)


def test_a_layer_around_a_classifier_of_ours_hides_its_noise_which_is_said(make, tiny_images):
    x, y = tiny_images.head(8).batch(slice(None))
    classifier = BayesClassifier(make("gbz"), particles=2)
    wrapper = nn.Sequential(nn.Identity(), classifier)
    with pytest.warns(UserWarning, match="wraps a BayesClassifier, whose noise is then not the image's own"):
        found = [attacks.fgsm(wrapper, x, y, 0.1) for _ in range(2)]
    assert torch.equal(*found) and classifier._calls == 0


def test_a_verdict_of_a_deterministic_module_draws_nothing(cnn, tiny_images, quickly_broken):
    options = RobustnessOptions(images=6, steps=2, redraws=2, checked_images=3, eps=(0.1,), brief=True)
    verdict = pyrobayes.assess(cnn, tiny_images, tiny_images, options, **QUIET)
    assert verdict.broken_in_most is None and {"pgd", "apgd, margin", "square"} <= verdict.success.keys()
    assert not verdict.generative and 12 not in [c.number for c in verdict.checks if c.status in (FAIL, NOT_APPLICABLE)]


def test_threads_that_classify_take_turns(make, tiny_images):
    classifier, (x, _) = (
        BayesClassifier(make("gbz"), particles=3, noise="fixed"),
        tiny_images.head(8).batch(slice(None)),
    )
    expected = classifier(x)
    with ThreadPoolExecutor(4) as threads:
        assert all(torch.equal(each, expected) for each in threads.map(classifier, [x] * 12))
