"""The ordinary classifiers beside the deep Bayes classifiers: what they compute, and how they are trained."""

import dataclasses
import math

import pytest
import torch

from pyrobayes import BayesClassifier, InputError, TrainingOptions, attacks, evaluate, factorizations, fit, load
from pyrobayes.commands.context import Context
from pyrobayes.commands.train import train
from pyrobayes.factorizations import Structure
from pyrobayes.options import PRETRAINED, EvaluationOptions, Networks
from pyrobayes.training.checkpoint import Config

COMPARATORS = [name for name in factorizations.names(comparators=True) if name not in factorizations.names()]
FEW = TrainingOptions(epochs=4, batch_size=16, lr=3e-3)


@pytest.fixture(params=COMPARATORS)
def comparator(request, make):
    return make(request.param)


def test_they_are_known_but_not_of_the_seven():
    assert COMPARATORS == ["cnn", "cnn-at", "bnn"]
    assert not any(factorizations.get(name).comparator for name in factorizations.names())


def test_running_graph_equals_formula(comparator):
    formula, running = Structure.of_formula(comparator.formula()).parents, comparator.parents()
    assert list(running) == list(formula)
    assert {site: set(parents) for site, parents in running.items()} == {s: set(p) for s, p in formula.items()}
    assert not comparator.structure.generative and not comparator.structure.models_images


@pytest.mark.parametrize("name", ["cnn", "cnn-at"])
def test_log_joint_of_a_cnn_is_its_log_softmax(name, make, batch):
    x, _ = batch
    cnn = make(name)
    expected = cnn.p_y(x).logits
    for particles in (1, 3):
        torch.testing.assert_close(BayesClassifier(cnn, particles)(x), expected)
    torch.testing.assert_close(expected.exp().sum(1), torch.ones(4))


def test_log_joint_of_a_bnn_is_the_mean_of_passes_with_dropout(make, batch):
    x, _ = batch
    bnn = make("bnn")
    classifier = BayesClassifier(bnn, 5).for_images(range(4))
    noise = classifier.base_noise(4)[:, 0]  # [K, B, latent]
    (layer,), (features,) = bnn.p_y.network.perceptron.layers, bnn.p_y.network.perceptron.encoders
    passes = [layer(features(x) * 2 * (z > 0)).softmax(1) for z in noise]
    torch.testing.assert_close(classifier(x).exp(), sum(passes) / 5)
    assert not torch.equal(passes[0], passes[1])


def test_half_of_the_units_are_dropped(make, batch):
    bnn = make("bnn")
    z = bnn.p_z().sample((2000,))
    assert z.shape == (2000, bnn.networks.hidden)
    assert (z > 0).float().mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "cw", "square"])
def test_attacks_know_them(attack, comparator, batch):
    (x, y), options = batch, {} if attack == "fgsm" else {"steps": 3}
    found = attacks.get(attack, **options)(BayesClassifier(comparator, 2), x, y, 0.1)
    assert found.shape == x.shape and 0 <= found.min() and found.max() <= 1


def test_they_are_evaluated_like_others(comparator, tiny_images):
    result = evaluate(BayesClassifier(comparator, 4), tiny_images, images=50)
    assert result.log_evidence is None and result.effective_sample_size <= 4 + 1e-4
    if "z" not in comparator.parents():
        assert result.effective_sample_size == pytest.approx(4) and result.flipped_by_resampling.count == 0


def test_what_needs_a_latent_vector_is_refused(make, batch):
    x, y = batch
    cnn = BayesClassifier(make("cnn"))
    with pytest.raises(InputError, match=r"cnn has no z: it is p\(x, y\) = p_D\(x\) p\(y\|x\)"):
        cnn.latent_means(x)
    with pytest.raises(InputError, match="cnn has no z"):
        attacks.get("fgsm", term="z")(cnn, x, y, 0.1)
    with pytest.raises(InputError, match="cnn has no z"):
        BayesClassifier(make("cnn"), estimator="mixture")


def test_they_are_trained_saved_and_resumed_like_others(comparator, tiny_images, tmp_path):
    epochs = fit(comparator, tiny_images, dataclasses.replace(FEW, epochs=2), out=tmp_path)
    assert epochs[-1].elbo > epochs[0].elbo and not epochs[-1].collapsed
    assert epochs[-1].validation_kl == pytest.approx(0, abs=1e-5)
    loaded, x = load(tmp_path, device="cpu", noise="fixed"), tiny_images.batch(torch.arange(4))[0]
    assert torch.equal(loaded(x), BayesClassifier(comparator.eval(), noise="fixed")(x))
    assert fit(comparator, tiny_images, dataclasses.replace(FEW, epochs=2), out=tmp_path, resume=True) == epochs


def robust_accuracy(factorization, images):
    x, y = images.batch(slice(None))
    classifier = BayesClassifier(factorization)
    return (classifier(attacks.get("pgd", steps=10)(classifier, x, y, 0.1)).argmax(1) == y).float().mean().item()


def test_adversarial_training_holds_what_plain_training_does_not(make, tiny_images):
    accuracy = {}
    for eps in (0.0, 0.1):
        cnn = make("cnn", Networks(latent=5, hidden=24, channels=12))
        fit(
            cnn,
            tiny_images,
            dataclasses.replace(FEW, epochs=20, adversarial_eps=eps, adversarial_steps=2 if eps else None),
        )
        accuracy[eps] = robust_accuracy(cnn, tiny_images)
    assert accuracy[0.1] > accuracy[0.0] + 0.1


def test_a_model_says_whether_it_is_trained_adversarially(make, tiny_images):
    trained = {}
    for name, eps in (("cnn", None), ("cnn", 0.0), ("cnn", 0.3), ("cnn-at", None), ("cnn-at", 0.0)):
        factorization = make(name)
        fit(factorization, tiny_images, dataclasses.replace(FEW, epochs=1, adversarial_eps=eps))
        trained[name, eps] = torch.cat([p.detach().flatten() for p in factorization.parameters()])
    assert torch.equal(trained["cnn", None], trained["cnn", 0.0])
    assert torch.equal(trained["cnn-at", 0.0], trained["cnn", 0.0])
    assert torch.equal(trained["cnn-at", None], trained["cnn", 0.3])
    assert not torch.equal(trained["cnn", 0.3], trained["cnn", 0.0])


@pytest.mark.parametrize("name", ["gbz", "dfx"])
def test_deep_bayes_classifiers_can_be_trained_adversarially_too(name, make, tiny_images):
    options = dataclasses.replace(FEW, epochs=1, adversarial_eps=0.1, adversarial_steps=1)
    (epoch,) = fit(make(name), tiny_images, options)
    assert math.isfinite(epoch.elbo)


def test_an_option_that_comes_later_leaves_runs_as_they_are(tiny_images):
    def identity(**options):
        return Config.of("cnn", Networks(), tiny_images, TrainingOptions(**options)).identity

    assert identity() == identity(adversarial_eps=None) != identity(adversarial_eps=0.0)


def test_steps_without_an_attack_are_refused(make, tiny_images):
    with pytest.raises(InputError, match="adversarial eps of cnn is 0: give one"):
        fit(make("cnn"), tiny_images, dataclasses.replace(FEW, adversarial_steps=3))
    with pytest.raises(InputError, match="adversarial warmup says how to attack, but the adversarial eps of cnn is 0"):
        fit(make("cnn"), tiny_images, dataclasses.replace(FEW, adversarial_eps=0.0, adversarial_warmup=0.3))


def test_they_are_refused_before_the_first_model_is_trained(tmp_path):
    with pytest.raises(InputError, match="adversarial eps of gbz is 0: give one"):
        train(
            ["cnn-at", "gbz"], Context("fashion-mnist-mini", runs=tmp_path), training_changes={"adversarial_steps": 3}
        )
    assert not any(tmp_path.iterdir())


def test_bad_options_are_named():
    for eps in (2.0, True, "abc", (0.1, 0.2)):
        with pytest.raises(InputError, match="adversarial eps must be a number from 0 to 1"):
            TrainingOptions(adversarial_eps=eps)
    with pytest.raises(InputError, match="adversarial steps must be"):
        TrainingOptions(adversarial_steps=0)


def test_all_does_not_hide_a_comparator_that_is_named_beside_it():
    with pytest.raises(InputError, match="no trained model in .*cnn"):  # which doesn't come with the package
        Context("fashion-mnist-mini", runs=PRETRAINED).open(["cnn", "all"], EvaluationOptions())
