"""Tests that reject adversarial images: their thresholds, their statistics, and attacks that evade them."""

import dataclasses
import json
import math

import pytest
import torch

from pyrobayes import BayesClassifier, InputError, attacks, evaluation
from pyrobayes.codec import decode, encode
from pyrobayes.evaluation import detection
from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.detection import area_under_roc, detector_of, fit_detector, roc, selective_accuracy
from pyrobayes.evaluation.rates import Rate
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.options import DETECTION_TESTS


@pytest.fixture
def training():
    """Log joints of 1,000 images of four classes, and classes of them."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(1000) % 4
    scale = 1 + y[:, None].float()  # the classes differ in how sure the model is, and in how likely their images are
    log_joint = scale * torch.randn(1000, 4, generator=generator) - 400 - 20 * scale
    log_joint[torch.arange(1000), y] += 4 * scale[:, 0]
    return log_joint, y


def result_of(clean, attacked, labels, options=None):
    return AttackResult.of(
        model="gbz", generative=True, attack="fgsm", options={"norm": "linf", "evade": None} | (options or {}), data="tiny", eps=(0.1,),
        labels=labels, clean_log_joint=clean, log_joint=attacked[None], unmoved=Rate(0, len(labels)),
        examples=torch.empty(1, 0, 1, 7, 7),
    )  # fmt: skip


@pytest.mark.parametrize("false_alarms", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("test", DETECTION_TESTS)
def test_thresholds_give_the_false_alarms_on_training_data(test, false_alarms, training):
    log_joint, y = training
    detector = detector_of(log_joint, y, false_alarms)
    assert detector.rejects(test, log_joint).sum() == 1000 * false_alarms


def test_thresholds_of_a_model_give_five_per_cent(name, make, tiny_images):
    classifier = BayesClassifier(make(name), particles=2)
    detector = fit_detector(classifier, tiny_images, batch_size=64)
    pinned = classifier.for_images(range(240), NoiseStream.CALIBRATION)
    with torch.no_grad():
        log_joint = pinned(tiny_images.batch(slice(None))[0])
    for test in DETECTION_TESTS:
        if test == "kl" or classifier.factorization.structure.models_images:
            assert 10 <= detector.rejects(test, log_joint).sum() <= 12  # of 240; batches differ in rounding
    other = fit_detector(classifier, tiny_images, batch_size=7, images=100)
    assert other.thresholds != detector.thresholds


def test_statistics_are_those_of_the_paper(training):
    log_joint, y = training
    detector, posterior = detector_of(log_joint, y, 0.05), log_joint.double().softmax(1)
    predicted = log_joint.argmax(1)
    torch.testing.assert_close(
        detector.statistic("marginal", log_joint).double(), -log_joint.double().exp().sum(1).log(), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(detector.statistic("logit", log_joint), -log_joint[torch.arange(1000), predicted])
    for i in range(5):
        usual = posterior[y == predicted[i]].mean(0)
        divergence = (usual * (usual / posterior[i]).log()).sum()
        assert detector.statistic("kl", log_joint)[i].item() == pytest.approx(divergence.item(), rel=1e-3)


def test_usual_is_what_the_training_images_of_a_class_are(training):
    log_joint, y = training
    detector, logit = detector_of(log_joint, y, 0.05), log_joint[torch.arange(1000), y]
    for c in range(4):  # Li et al. fit every class to the training images of that class, however these are classified
        assert detector.means["logit"][c].item() == pytest.approx(-logit[y == c].mean().item(), rel=1e-4)
        torch.testing.assert_close(detector.posteriors[c], log_joint.softmax(1)[y == c].mean(0))


def test_scores_are_of_the_class_that_is_predicted(training):
    log_joint, _ = training
    log_joint[torch.arange(1000), log_joint.argmax(1)] += 1e-3
    detector = detector_of(log_joint, log_joint.argmax(1), 0.05)  # no image is misclassified
    for test in ("logit", "kl"):
        for c in range(4):
            score = detector.score(test, log_joint)[log_joint.argmax(1) == c]
            assert score.mean().item() == pytest.approx(0, abs=1e-3) and score.std().item() == pytest.approx(
                1, abs=1e-3
            )
    score = detector.score("marginal", log_joint)
    assert score.mean().item() == pytest.approx(0, abs=1e-3) and score.std().item() == pytest.approx(1, abs=1e-3)


def test_a_class_without_images_does_no_harm(training):
    log_joint, y = training
    log_joint[:, 2] -= 1e4
    detector = detector_of(log_joint, y.where(y != 2, 3), 0.05)
    unheard = log_joint.clone()
    unheard[:, 2] += 2e4
    for test in DETECTION_TESTS:
        assert detector.score(test, unheard).isfinite().all()


def test_unlikely_images_are_detected_and_likely_ones_are_not(training):
    log_joint, y = training
    detector = detector_of(log_joint, y, 0.05)
    wrong = log_joint.roll(1, dims=1)  # as likely as before, of another class
    far = wrong - 500
    caught = detection.detect(detector, result_of(log_joint, far, y.tolist()), "marginal")
    assert caught.detected[0].share == 1 and caught.undetected[0].count == 0 and caught.auc[0] == 1
    assert caught.accepted_accuracy[0].total == 0 and caught.false_alarms.share == 0.05
    unseen = detection.detect(detector, result_of(log_joint, wrong, y.tolist()), "marginal")
    assert unseen.detected[0].share == pytest.approx(0.05, abs=0.01) and unseen.auc[0] == pytest.approx(0.5, abs=0.03)
    assert unseen.undetected[0].count == unseen.success[0].count - unseen.detected[0].count
    json.dumps(encode(caught), allow_nan=False)


def test_an_attack_without_success_has_no_curve(training):
    log_joint, y = training
    detector = detector_of(log_joint, y, 0.05)
    found = detection.detect(detector, result_of(log_joint, log_joint, log_joint.argmax(1).tolist()), "kl")
    assert math.isnan(found.auc[0]) and found.detected[0].total == 0 and found.accepted_accuracy[0].share == 1
    assert encode(found)["auc"] == encode(found)["roc"] == [None]


def test_roc_of_a_known_case():
    positive, negative = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert area_under_roc(positive, negative) == (10 + 3 / 2) / 16  # of the pairs 10 are won and 3 drawn
    curve = roc(positive, negative, 5)
    assert curve[0] == 0.25 and curve[-1] == 1 and curve == sorted(curve)
    many = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    assert roc(many + 1, many)[50] == pytest.approx(0.841, abs=0.02)  # the normal distribution at 1


@pytest.mark.parametrize("test", DETECTION_TESTS)
def test_an_attack_that_evades_lowers_the_statistic(test, make, tiny_images):
    (x, y), classifier = tiny_images.head(30).batch(slice(None)), BayesClassifier(make("gbz"), 3, noise="fixed")
    detector = fit_detector(classifier, tiny_images)
    plain = attacks.get("pgd", steps=10)
    reached = []
    for weight in (1e-6, 1.0, 100.0):
        attack = dataclasses.replace(plain, evade=detector.evading(test), evade_weight=weight)
        found = attack(classifier, x, y, 0.2)
        reached.append(detector.statistic(test, classifier(found)).mean().item())
    assert reached[0] > reached[2]
    assert attack.described()["evade"] == test and attack.described()["evade_weight"] == 100


def test_the_evaded_statistic_is_taken_off_the_loss(make, batch):
    (x, y), classifier = batch, BayesClassifier(make("gbz"), 3, noise="fixed")
    detector = detector_of(classifier(x.repeat(3, 1, 1, 1)).detach(), y.repeat(3), 0.3)
    attack = attacks.get("fgsm", evade=detector.evading("marginal"), evade_weight=2.0)
    problem = attacks.Problem(attack, classifier, x, y)
    expected = attacks.log_odds_against(classifier(x), y) + 2 * classifier(x).logsumexp(1)
    torch.testing.assert_close(problem.loss(x), expected)


def test_more_particles_may_evade_a_test(training):
    evade = detector_of(*training, 0.05).evading("marginal")
    assert attacks.get("pgd", evade=evade, snapshot=True, eot=2).eot == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eot": 2}, "eot sees the mean of posteriors"),
        ({"loss": "logit-matching"}, "has no evade: leave it out"),
        ({"term": "y"}, "a test to evade looks at all terms"),
        ({"evade_weight": 0.0}, "evade weight must be a finite number above 0"),
    ],
)
def test_bad_options_are_named(options, words, training):
    evade = detector_of(*training, 0.05).evading("kl")
    with pytest.raises(InputError, match=words):
        attacks.get("pgd", **({"evade": evade} | options))


def test_bad_arguments_are_named(make, tiny_images, training):
    classifier = BayesClassifier(make("gbz"))
    with pytest.raises(InputError, match="false alarms must be a share above 0 and below 1, got 1"):
        fit_detector(classifier, tiny_images, false_alarms=1)
    with pytest.raises(InputError, match="unknown test 'logits': did you mean 'logit'"):
        detector_of(*training, 0.05).statistic("logits", training[0])


def test_what_is_detected_does_not_depend_on_batches(make, tiny_images):
    classifier = BayesClassifier(make("gfz", double=True), particles=2)
    detector = fit_detector(classifier, tiny_images)
    results = [evaluation.attack(classifier, tiny_images.head(50), 0.2, batch_size=size) for size in (50, 7)]
    first, second = (detection.detect(detector, result, "logit") for result in results)
    assert first.detected == second.detected and first.auc == pytest.approx(second.auc)


def test_selective_accuracy_is_that_of_the_least_suspicious_images(training):
    scores, right = torch.tensor([3.0, 1.0, 2.0, 9.0]), torch.tensor([False, True, True, True])
    assert selective_accuracy(scores, right, points=4) == pytest.approx([1, 1, 2 / 3, 3 / 4])
    assert selective_accuracy(scores, right, points=8) == pytest.approx([1, 1, 1, 1, 2 / 3, 2 / 3, 3 / 4, 3 / 4])
    log_joint, y = training
    detector = detector_of(log_joint, y, 0.05)
    found = detection.detect(detector, result_of(log_joint, log_joint.roll(1, 0), y.tolist()), "logit")
    clean, attacked = found.clean_selective, found.selective[0]
    assert len(clean) == len(attacked) == 100
    assert clean[-1] == pytest.approx((log_joint.argmax(1) == y).float().mean().item())
    assert attacked[-1] == pytest.approx(1 - found.success[0].share)
    accepted = found.accepted_accuracy[0]
    assert accepted.total == 950 and attacked[94] == pytest.approx(
        accepted.share
    )  # the threshold is a point of the curve
    older = encode(found)
    del older["selective"], older["clean_selective"]
    assert decode(detection.Detection, older).selective is None
