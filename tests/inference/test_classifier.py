"""How the estimate is computed: in parts, from a mixture, with pruning, in lower precision."""

import gc
import math
import shutil

import pyro
import pytest
import torch
from linear_gaussian import linear_gaussian
from support import as_on_a_gpu, draw_by_hand, log_density_by_hand, with_little_memory
from torch._subclasses.fake_tensor import FakeTensorMode

from pyrobayes import BayesClassifier, InputError, Networks, build, evaluation, factorizations
from pyrobayes.codec import encode
from pyrobayes.evaluation.images import approximation, gradient_signs
from pyrobayes.factorizations import networks
from pyrobayes.inference import classifier as classifier_module
from pyrobayes.inference import importance
from pyrobayes.inference.importance import mixture
from pyrobayes.inference.log_weights import LogWeights
from pyrobayes.options import MODELS

SHARED = [name for name in factorizations.names() if name not in ("gfz", "gfy")]
INDICES = [3, 1, 4, 5]


@pytest.fixture
def parts_computed(monkeypatch):
    """A list that grows with every part that a classifier computes."""
    calls, compute = [], LogWeights.at_once
    monkeypatch.setattr(LogWeights, "at_once", lambda self, *part: calls.append(part) or compute(self, *part))
    return calls


@pytest.mark.parametrize("estimator", ["per-class", "mixture"])
@pytest.mark.parametrize(("particles_at_once", "parts"), [(21, 2), (4, 8), (1, 28)])
def test_in_parts_the_estimate_and_its_gradients_are_the_same(
    estimator, particles_at_once, parts, make, batch, parts_computed
):
    factorization, x = make("gbz", double=True), batch[0].double().requires_grad_()
    weights = list(factorization.parameters())
    results = []
    for little in (False, True):
        classifier = BayesClassifier(factorization, particles=7, estimator=estimator).for_images(INDICES)
        with_little_memory(classifier, 10 * (particles_at_once if little else 10_000))
        parts_computed.clear()
        log_joint = classifier(x)
        assert len(parts_computed) == (parts if little else 1)
        results.append(
            [log_joint, *torch.autograd.grad(log_joint.logsumexp(1).sum(), [x, *weights], allow_unused=True)]
        )
    for together, in_parts in zip(*results):
        torch.testing.assert_close(in_parts, together, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("estimator", ["per-class", "mixture"])
@pytest.mark.parametrize("name", factorizations.names())
def test_a_gradient_without_what_is_negligible(name, estimator, make, batch):
    if estimator == "mixture" and name not in SHARED or name in ("dfx", "dbx"):
        pytest.skip("the mixture is not for it, or nothing is decoded")
    factorization, (x, y) = make(name, double=True).requires_grad_(False), batch
    x = x.double().requires_grad_()

    def gradient(negligible, **options):
        classifier = BayesClassifier(factorization, 5, estimator=estimator, negligible=negligible, **options)
        pinned = with_little_memory(classifier, 40).for_images(INDICES)
        posterior = 40 * pinned(x).log_softmax(1)
        return torch.autograd.grad(posterior.gather(1, y[:, None]).sum(), x)[0]

    exact = gradient(0.0)
    torch.testing.assert_close(gradient(1e-12), exact, rtol=1e-8, atol=1e-9)
    few = gradient(0.02)
    assert torch.nn.functional.cosine_similarity(few.flatten(1), exact.flatten(1)).min() > 0.8
    assert torch.equal(few, exact) == (name == "dfz")  # its encoder would have to be gone through for every particle


def test_a_gradient_of_nothing_is_zero(make, batch):
    classifier = BayesClassifier(make("gbz").requires_grad_(False), negligible=1e-3)
    x = batch[0].requires_grad_()
    assert not torch.autograd.grad(0 * classifier(x).sum(), x)[0].any()


def test_a_gradient_without_what_is_negligible_of_any_loss(make, batch):
    factorization, x = make("gbz").requires_grad_(False), batch[0].requires_grad_()
    for loss in (lambda out: out.sum(), lambda out: out.logsumexp(1).sum()):
        exact, few = (
            torch.autograd.grad(loss(BayesClassifier(factorization, 5, "fixed", negligible=part)(x)), x)[0]
            for part in (0.0, 1e-9)
        )
        torch.testing.assert_close(few, exact, rtol=1e-3, atol=1e-4)
    first = torch.autograd.grad(BayesClassifier(factorization, negligible=0.1)(x).sum(), x)
    assert first[0].any()
    with pytest.raises(InputError, match="second derivatives need all particles: leave negligible out"):
        torch.autograd.grad(BayesClassifier(factorization, negligible=0.1)(x).sum(), x, create_graph=True)


def test_the_share_of_signs_that_an_approximation_changes(make, tiny_images):
    factorization, few = make("gbz").requires_grad_(False), tiny_images.head(20)
    assert gradient_signs(BayesClassifier(factorization), few) is None
    little, much = (gradient_signs(BayesClassifier(factorization, negligible=part), few) for part in (1e-6, 0.5))
    assert little.total == few.pixels.numel() and little.count < much.count < little.total / 2
    result = evaluation.attack(BayesClassifier(factorization, negligible=0.5), few, 0.1)
    assert result.gradient_signs == much and encode(result)["gradient_signs"]["total"] == much.total


def test_memory_is_measured_once_for_all_copies(make, batch, monkeypatch):
    calls, measure = [], LogWeights.measure_memory
    monkeypatch.setattr(LogWeights, "measure_memory", lambda self: calls.append(self.options) or measure(self))
    classifier = BayesClassifier(make("gbz"), particles=3)
    fewer = classifier.replaced(particles=1)
    for draw in range(3):
        fewer.for_images(INDICES).resampled(draw)(batch[0])
    assert classifier.bytes_needed == fewer.bytes_needed and len(calls) == 1
    assert classifier.replaced(precision="bf16").bytes_needed != fewer.bytes_needed and len(calls) == 2


def test_measuring_memory_keeps_none(make):
    def tensors_after():
        LogWeights(classifier.factorization, classifier.options).measure_memory()
        gc.collect()
        return sum(type(each) is torch.Tensor for each in gc.get_objects())

    classifier = BayesClassifier(make("gbz"), particles=3)
    tensors_after()
    assert tensors_after() == tensors_after()


def test_classes_left_out_take_no_part(make, batch):
    classifier, x = BayesClassifier(make("gfz", double=True), particles=3).for_images(INDICES), batch[0].double()
    classes = torch.tensor([[3, 1, 4, 2], [0, 5, 9, 3]])
    whole, some = (each.estimate(x).log_weights for each in (classifier, classifier.of_classes(classes)))
    torch.testing.assert_close(some.gather(1, classes.expand(3, -1, -1)), whole.gather(1, classes.expand(3, -1, -1)))
    assert (some == -torch.inf).sum() == 3 * 4 * 8
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(classifier.of_classes(classes)(x).logsumexp(1).sum(), x)
    assert gradient.isfinite().all() and gradient.flatten(1).any(1).all()
    mixed = BayesClassifier(make("gbz"), estimator="mixture")
    assert mixed.of_classes(classes) is mixed


def test_images_at_once_follow_from_the_memory(make):
    classifier = BayesClassifier(make("gbz"), particles=10, memory=1)
    image, each = classifier.bytes_needed
    assert 500 < each < 10_000 and 500 < image < 20_000
    assert classifier.images_at_once == 2**20 // (image + 100 * each)
    assert BayesClassifier(make("gbz"), particles=10**6, memory=1).images_at_once == 1
    attacked = BayesClassifier(make("gbz"), particles=3000, memory=1)
    assert attacked(torch.rand(2, 1, 7, 7)).isfinite().all()


@pytest.mark.parametrize("name", SHARED)
def test_mixture_equals_the_formula_written_out(name, make, batch):
    factorization, x = make(name, double=True), batch[0].double()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 10, 4, factorization.latent, dtype=torch.float64, generator=generator)
    weights = mixture(factorization, x, noise)
    assert weights.shape == (20, 10, 4)
    classes = [torch.full((4,), c) for c in range(10)]
    for k, drawn_for in [(0, 0), (1, 7)]:
        values = draw_by_hand(factorization, x, classes[drawn_for], noise[k, drawn_for])
        guides = [log_density_by_hand(factorization, values | {"y": y}, "q") for y in classes]
        proposal = torch.stack(guides).logsumexp(0) - math.log(10)
        for c in (0, 7):
            total = log_density_by_hand(factorization, values | {"y": classes[c]}, "p") - proposal
            torch.testing.assert_close(weights[10 * k + drawn_for, c], total, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SHARED)
def test_mixture_and_per_class_agree_with_many_particles(name, make, batch):
    factorization, x = make(name, double=True), batch[0].double()[:2]
    with torch.no_grad():
        ours, expected = (
            BayesClassifier(factorization, particles=particles, estimator=estimator).estimate(x)
            for estimator, particles in (("mixture", 200), ("per-class", 2000))
        )
    error = (1 / ours.effective_sample_size + 1 / expected.effective_sample_size).sqrt()
    assert (error < 0.5).all()
    assert ((ours.log_joint - expected.log_joint).abs() < 5 * error).all()


def test_mixture_converges_to_the_closed_form(batch):
    factorization, x = linear_gaussian(wider=1.3), batch[0].double()
    result = BayesClassifier(factorization, particles=1000, estimator="mixture").estimate(x)
    error = (1 / result.effective_sample_size).sqrt()
    assert (error < 0.1).all()
    assert ((result.log_joint - factorization.exact_log_joint(x)).abs() < 5 * error).all()


@pytest.mark.parametrize("name", ["gfz", "gfy"])
def test_mixture_is_refused_where_images_depend_on_the_class(name, make):
    with pytest.raises(InputError, match=rf"doesn't depend on y, but {name} is p\(x, z, y\) = .*take .* per-class"):
        BayesClassifier(make(name), estimator="mixture")


def test_pruning_leaves_the_others_as_they_are(name, make, batch):
    factorization, x = make(name, double=True), batch[0].double()
    full = BayesClassifier(factorization, particles=10).for_images(INDICES).estimate(x)
    pruned = BayesClassifier(factorization, particles=10, prune=2.0).for_images(INDICES).estimate(x)
    first = full.log_weights[:2].logsumexp(0).T - math.log(2)
    in_play = first >= first.amax(1, keepdim=True) - 2.0
    assert in_play.any(1).all() and not in_play.all()
    torch.testing.assert_close(pruned.log_joint, full.log_joint.where(in_play, first), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(pruned.effective_sample_size[in_play], full.effective_sample_size[in_play])
    assert (pruned.effective_sample_size[~in_play] <= 2 + 1e-9).all()
    everything = BayesClassifier(factorization, particles=10, prune=1e6).for_images(INDICES)(x)
    torch.testing.assert_close(everything, full.log_joint, rtol=1e-9, atol=1e-9)
    single = BayesClassifier(factorization, particles=1, prune=2.0).for_images(INDICES)(x)
    assert single.shape == (4, 10)


def test_what_pruning_leaves_is_filled_up(make, batch, monkeypatch):
    computed, x = [], batch[0]
    compute = LogWeights.__call__
    monkeypatch.setattr(LogWeights, "__call__", lambda self, *a: (computed.append(len(a[0])), compute(self, *a))[1])
    BayesClassifier(make("gbz"), particles=10, prune=2.0).for_images(INDICES)(x)
    assert computed[0] == len(x) and computed[1] and computed[1] % 8 == 0  # 8 particles each


def test_pruned_gradient_equals_finite_differences(make, batch):
    classifier = BayesClassifier(make("gby", double=True), particles=10, prune=2.0, noise="fixed")
    x = (0.2 + 0.6 * batch[0].double()).requires_grad_()
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    slope = (torch.autograd.grad(classifier(x).logsumexp(1).sum(), x)[0] * direction).sum()
    with torch.no_grad():
        up, down = (classifier(x + step * direction).logsumexp(1).sum() for step in (1e-6, -1e-6))
    torch.testing.assert_close(slope, (up - down) / 2e-6, rtol=1e-4, atol=1e-6)


def test_networks_in_bfloat16_give_log_probabilities_in_float32(name, make, tiny_images):
    factorization, (x, _) = make(name), tiny_images.batch(torch.arange(100))
    before = {key: value.clone() for key, value in factorization.state_dict().items()}
    classifier = BayesClassifier(factorization, precision="bf16").for_images(range(100))
    assert classifier.state_dict().keys() == BayesClassifier(factorization).state_dict().keys()
    log_joint, exact = classifier(x), classifier.exact()(x)
    assert log_joint.dtype == torch.float32
    expected = BayesClassifier(factorization).for_images(range(100))(x)
    torch.testing.assert_close(exact, expected)
    assert all(value.dtype == before[key].dtype for key, value in factorization.state_dict().items())
    if name != "linear-gaussian":  # which has no networks of ours
        assert not torch.equal(log_joint, expected)
    assert (log_joint - expected).abs().max() < 0.3
    assert (log_joint.argmax(1) == expected.argmax(1)).float().mean() > 0.9


def test_the_share_that_an_approximation_changes(make, tiny_images):
    assert approximation(BayesClassifier(make("gbz")), tiny_images) is None
    rate = approximation(BayesClassifier(make("gbz"), prune=0.01, particles=20), tiny_images.head(100))
    assert 0 < rate.count < rate.total == 100
    assert approximation(BayesClassifier(make("gbz"), prune=1e6), tiny_images.head(100)).count == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"estimator": "both"}, "unknown estimator 'both'"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"prune": 0}, "prune must be a finite number above 0"),
        ({"prune": 3.0, "estimator": "mixture"}, "which only the estimator per-class has"),
        ({"memory": 0}, "memory must be a whole number of at least 1"),
    ],
)
def test_bad_options_are_refused(arguments, words, make):
    with pytest.raises(InputError, match=words):
        BayesClassifier(make("gbz"), **arguments)


def test_low_precision_follows_the_weights(make, batch):
    factorization, x = make("gbz").requires_grad_(False), batch[0]
    classifier = BayesClassifier(factorization, precision="bf16").for_images(INDICES)
    before = classifier(x)
    assert torch.equal(classifier(x), before)
    for parameter in factorization.parameters():
        parameter *= 1.3
    assert (classifier(x) - classifier.exact()(x)).abs().max() < 0.2
    assert (classifier(x) - before).abs().max() > 0.4


def test_inference_mode(make, batch):
    factorization = make("gbz")
    expected = BayesClassifier(factorization, noise="fixed")(batch[0])
    with torch.inference_mode():
        assert torch.equal(BayesClassifier(factorization, noise="fixed")(batch[0]), expected)


def test_a_guide_that_draws_more_than_it_did_is_refused(make, batch):
    factorization = make("gbz")

    def guide(x, y):
        with factorization.images(x, y):
            pyro.sample("w", factorization.q_z(x, y))
            return pyro.sample("z", factorization.q_z(x, y))

    factorization.guide = guide
    with pytest.raises(InputError, match="more than the 5 latent numbers .* there are none for 'z'"):
        BayesClassifier(factorization)(batch[0])


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_generated_code_gives_the_same_and_follows_the_weights(make, batch, monkeypatch, capfd):
    monkeypatch.setattr(networks, "CPU_TILE", 8 * 1024)  # several whole tiles, and a rest
    factorization, x = make("gbz"), batch[0]
    plain, compiled = (BayesClassifier(factorization, particles=7, noise="fixed", compile=c) for c in (False, True))
    for _ in range(2):
        x = x.detach().requires_grad_()
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), plain(x), rtol=1e-6, atol=1e-4)
        gradients = [torch.autograd.grad(classifier(x).sum(), x)[0] for classifier in (compiled, plain)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-3)
        decoder = factorization.p_x.decoder
        assert compiled._networks.of(compiled.options).p_x.decoder.generated and not decoder.generated
        with torch.no_grad():
            decoder.linear.bias += 1
    parts = BayesClassifier(factorization, particles=7, noise="fixed", compile=True)
    in_parts = torch.autograd.grad(with_little_memory(parts, 40)(x).sum(), x)[0]
    torch.testing.assert_close(in_parts, torch.autograd.grad(plain(x).sum(), x)[0], rtol=1e-4, atol=1e-3)
    assert "Autotune" not in capfd.readouterr().err


def test_a_compiler_that_fails_is_told(make, batch, monkeypatch):
    def broken(decode, **options):
        def generated(hidden):
            raise TypeError("none found\nand much more")

        return generated

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(networks, "CPU_TILE", 8 * 1024)
    with torch.no_grad(), pytest.raises(InputError, match="compile needs a C.. compiler .* says: none found$"):
        BayesClassifier(make("gbz"), compile=True)(batch[0])


def test_a_gradient_in_parts_has_a_gradient_too(make, batch, parts_computed):
    factorization, x = make("gbz", double=True), batch[0].double().requires_grad_()
    found = []
    for little in (False, True):
        classifier = BayesClassifier(factorization, particles=7).for_images(INDICES)
        with_little_memory(classifier, 30 if little else 10_000)
        parts_computed.clear()
        posterior = classifier(x).softmax(1)[:, 0].sum()
        assert len(parts_computed) == (12 if little else 1)
        (gradient,) = torch.autograd.grad(posterior, x, create_graph=True)
        weights = list(factorization.parameters())
        found.append(torch.autograd.grad(gradient.square().sum(), [x, *weights], allow_unused=True))
    for together, in_parts in zip(*found):
        torch.testing.assert_close(in_parts, together, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_images_need_not_be_where_the_weights_are(name, monkeypatch):
    factorization = build(name, Networks(latent=4, hidden=8, channels=16))
    monkeypatch.setattr(classifier_module, "check_images", lambda *given: None)  # fake images have no values
    monkeypatch.setattr(importance, "VALIDATE", False)
    monkeypatch.setattr(BayesClassifier, "bytes_needed", (1, 1))
    with FakeTensorMode(), torch.no_grad(), pyro.validation_enabled(False):
        as_on_a_gpu(factorization)
        classifier, x = BayesClassifier(factorization, particles=2), torch.empty(3, 1, 28, 28)
        log_joint, means = classifier(x), classifier.latent_means(x)
        assert classifier.estimate(x).log_weights.device.type == "cuda"
    assert log_joint.shape == (3, 10) and log_joint.device.type == means.device.type == "cpu"
