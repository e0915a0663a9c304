"""Each of the checks passes where it should, and fails on a model built to fail it."""

import dataclasses

import pytest
import torch
from verdicts import QUICK, judged, run_of

from pyrobayes import (
    BayesClassifier,
    InputError,
    RobustnessOptions,
    assess,
    attacks,
    load_data,
    pretrained,
)
from pyrobayes.attacks.losses import margin
from pyrobayes.codec import encode
from pyrobayes.evaluation.rates import Rate, difference, larger
from pyrobayes.evaluation.robustness import checks, measurements
from pyrobayes.evaluation.robustness.cache import ResultCache
from pyrobayes.evaluation.robustness.checks import (
    ALL,
    BY_GRADIENT,
    CHECKS,
    FAIL,
    NOT_APPLICABLE,
    PASS,
    Check,
    CheckResult,
    register,
)
from pyrobayes.evaluation.robustness.known_broken import KnownBroken
from pyrobayes.evaluation.robustness.measurements import RobustnessRun
from pyrobayes.evaluation.robustness.suite import GRADIENT_FREE, ITERATIVE, SINGLE_STEP, SuiteEntry, suite
from pyrobayes.evaluation.robustness.verdict import Verdict
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.progress import Progress, silent

EPS = (0.1, 0.2, 0.3)


def of(share, images=400):
    """Broken images, the first ones."""
    return torch.arange(images) < share * images


def rows(*shares):
    return torch.stack([of(share) for share in shares])


def made_up(success, masked=True):
    return KnownBroken(Rate(success, 100), ("FGSM", Rate(5, 100)), masked)


ONES = torch.ones(100)
PASSING_AND_FAILING = {
    1: (
        CHECKS[1].judge(EPS, rows(0.2, 0.3, 0.4), rows(0.2, 0.5, 0.9)),
        CHECKS[1].judge(EPS, rows(0.2, 0.3, 0.4), rows(0.3, 0.5, 0.2)),
    ),
    2: (
        CHECKS[2].judge(EPS, {"pgd": rows(0.2, 0.3, 0.3), "fgsm": rows(0.1, 0.1, 0.2)}),
        CHECKS[2].judge(EPS, {"pgd": rows(0.2, 0.3, 0.3), "fgsm": rows(0.1, 0.3, 0.2)}),
    ),
    3: (CHECKS[3].judge(of(0.95), 10), CHECKS[3].judge(of(0.85), 10)),
    4: (
        CHECKS[4].judge(of(0.5), {"four times the steps": of(0.51)}, 0.1),
        CHECKS[4].judge(of(0.5), {"four times the steps": of(0.51), "twice the restarts": of(0.6)}, 0.1),
    ),
    5: (
        CHECKS[5].judge({"pgd": of(0.5), "fgsm": of(0.3)}, {"noise": of(0.2), "square": of(0.3)}, 0.1),
        CHECKS[5].judge({"pgd": of(0.5), "fgsm": of(0.3)}, {"noise": of(0.2), "square": of(0.6)}, 0.1),
    ),
    6: (
        CHECKS[6].judge({"EOT": [(1, of(0.4)), (4, of(0.5)), (8, of(0.51))]}, of(0.5), 0.1),
        CHECKS[6].judge({"EOT": [(1, of(0.4)), (4, of(0.5)), (8, of(0.53))]}, of(0.53), 0.1),
    ),
    7: (
        CHECKS[7].judge(of(0.5), of(0.5) * 0.98, 0.1),
        CHECKS[7].judge(of(0.5), of(0.5) * 0.8, 0.1),
    ),
    8: (
        CHECKS[8].judge(Rate(1, 200), Rate(0, 200), Rate(90, 200)),
        CHECKS[8].judge(Rate(1, 200), Rate(3, 200), Rate(90, 200)),
    ),
    9: (
        CHECKS[9].judge(torch.linspace(0, 1, 40).sqrt().clamp(max=0.8)[:, None], 0.1),
        CHECKS[9].judge(torch.linspace(0, 1, 40)[:, None], 0.1),
    ),
    10: (CHECKS[10].judge(Rate(7, 400)), CHECKS[10].judge(Rate(8, 400))),
    11: (
        CHECKS[11].judge({"one": made_up(100), "other": made_up(90)}, 0.3),
        CHECKS[11].judge({"one": made_up(100), "other": made_up(89)}, 0.3),
    ),
    12: (
        CHECKS[12].judge((ONES, ONES), (ONES, torch.cat([ONES[3:], 2 * ONES[:3]])), torch.zeros(100)),
        CHECKS[12].judge((ONES, torch.cat([ONES[2:], 0 * ONES[:2]])), (ONES, ONES), torch.zeros(100)),
    ),
    13: (
        CHECKS[13].judge(of(0.5), {"apgd, snapshot": of(0.51), "one particle a step": of(0.4)}, 600, 0.1),
        CHECKS[13].judge(of(0.5), {"apgd, snapshot": of(0.53), "one particle a step": of(0.4)}, 600, 0.1),
    ),
    14: (
        CHECKS[14].judge([(150, of(0.3)), (300, of(0.49)), (600, of(0.5)), (2400, of(0.6))], 0.1),
        CHECKS[14].judge([(150, of(0.3)), (300, of(0.48)), (600, of(0.5)), (2400, of(0.5))], 0.1),
    ),
}


@pytest.mark.parametrize("number", PASSING_AND_FAILING)
def test_a_check_passes_and_fails(number):
    passing, failing = PASSING_AND_FAILING[number]
    assert set(PASSING_AND_FAILING) == set(CHECKS)
    assert (passing.number, passing.status, failing.status) == (number, PASS, FAIL)
    assert passing.name == failing.name and failing.finding and failing.doubts


def test_other_batches_must_not_change_the_success_of_pgd():
    fewer = torch.cat([ONES[10:], 0 * ONES[:10]])
    assert CHECKS[12].judge((ONES, ONES), (ONES, fewer), torch.zeros(100)).status == FAIL


def test_a_difference_counts_beyond_its_interval():
    gap, half = difference(of(0.5), of(0.4))
    assert gap == pytest.approx(0.1) and half == pytest.approx(
        1.96 * ((41 / 402 - (40 / 402) ** 2) / 402) ** 0.5, rel=1e-3
    )
    assert larger(of(0.5), of(0.4)) and not larger(of(0.4), of(0.5))
    for shares in (False, True):  # of images, and of draws
        ours, theirs = (each.double() if shares else each for each in (of(0.5), of(0.4)))
        assert larger(ours, theirs) and not larger(theirs, ours)
    assert not larger(of(0.5025), of(0.5))  # one image of 400
    assert not larger(of(0.5), of(0.5))


def test_images_of_which_none_differs_have_an_interval_that_shrinks_with_their_number():
    few, many = (difference(of(0.5, images), of(0.5, images)) for images in (50, 500))
    assert few == (0.0, pytest.approx(1.96 / 52, rel=1e-3)) and many == (0.0, pytest.approx(1.96 / 502, rel=1e-3))
    assert not larger(of(0.51, 400).double(), of(0.5, 400).double())  # four of them, as by the exact test


def test_few_images_that_differ_may_be_chance():
    """Of so many fair coins all the same: 2 / 2^5 = 6%, 2 / 2^6 = 3%."""
    none = torch.zeros(200, dtype=torch.bool)
    assert [larger(torch.arange(200) < few, none) for few in (5, 6)] == [False, True]
    assert [larger(torch.arange(200) < few, none, comparisons=30) for few in (10, 11)] == [False, True]
    assert larger(torch.arange(20_000) < 11_000, torch.arange(20_000) >= 9_999)  # in numbers of any size


def test_a_loss_that_does_not_rise_fails():
    for losses in (torch.zeros(40, 5), -torch.arange(40.0)[:, None], torch.full((40, 5), torch.nan)):
        assert CHECKS[9].judge(losses, 0.1).status == FAIL
    assert CHECKS[9].judge(torch.arange(9.0)[:, None], 0.1).status == NOT_APPLICABLE


def test_two_points_are_two_points_and_what_may_be_chance_is_told():
    few = torch.arange(100)
    found = CHECKS[4].judge(few < 50, {"twice the steps": few < 52}, 0.1)
    assert found.status == FAIL and found.finding.endswith(
        "twice the steps 52.0% (+2.0 ± 3.3 points), which may be chance on so few images"
    )
    found = CHECKS[4].judge(few < 50, {"twice the steps": few < 51}, 0.1)
    assert found.status == PASS and found.finding.endswith("don't show that it is under 2 points")
    assert CHECKS[4].judge(of(0.5), {"twice the steps": of(0.5)}, 0.1).finding.endswith("(+0.0 ± 0.5 points)")
    for more in (60, 40):
        found = CHECKS[4].judge(few < 50, {"twice the steps": few < more}, 0.1)
        assert found.status == FAIL and "chance" not in found.finding


def test_more_particles_must_not_find_more_either():
    eot = [(1, of(0.4)), (4, of(0.5)), (8, of(0.5))]
    settled = [(10, of(0.4)), (20, of(0.45)), (40, of(0.46))]
    assert CHECKS[6].judge({"EOT": eot, "particles": settled}, of(0.5), 0.1).status == PASS
    for particles in ((0.4, 0.4, 0.45), (0.4, 0.6, 0.6)):  # still rising; above the suite
        row = [(10 * 2**i, of(share)) for i, share in enumerate(particles)]
        assert CHECKS[6].judge({"EOT": eot, "particles": row}, of(0.5), 0.1).status == FAIL


def test_a_single_step_that_finds_less_than_the_blind_is_called_masked():
    white = {"pgd": of(0.9), "fgsm": of(0.1)}
    found = CHECKS[5].judge(white, {"uniform noise": of(0.2), "transfer": of(0.05)}, 0.3)
    assert found.status == FAIL and found.concerns == (SINGLE_STEP,)
    assert "fgsm finds less, 10.0%, than uniform noise: its gradient is masked" in found.finding
    found = CHECKS[5].judge(white, {"uniform noise": of(0.05), "transfer": of(0.2)}, 0.3)
    assert (
        found.status == FAIL and "than transfer: a single step is weak here, or its gradient is masked" in found.finding
    )
    assert "no transfer" not in found.finding
    assert "no transfer" in PASSING_AND_FAILING[5][0].finding and PASSING_AND_FAILING[5][1].concerns == BY_GRADIENT


def test_what_did_not_come_out_broken_says_nothing():
    found = CHECKS[11].judge({"one": made_up(100), "other": made_up(100, masked=False)}, 0.3)
    assert found.status == NOT_APPLICABLE
    assert (
        "not all of these models look robust to weak attacks, as they should: breaking them shows nothing"
        in found.finding
    )


def test_one_image_of_few_may_be_rounded():
    none = Rate(0, 50)
    assert [CHECKS[8].judge(Rate(n, 50), none, none).status for n in (1, 2)] == [PASS, FAIL]
    predicted, labels = torch.zeros(50), torch.zeros(50)
    other = [torch.arange(50) < n for n in (1, 2)]
    found = [CHECKS[12].judge((predicted, each), (predicted, predicted), labels).status for each in other]
    assert found == [PASS, FAIL]


def test_what_is_found_under_fixed_noise_concerns_a_defender_with_fixed_noise():
    assert CHECKS[7].judge(of(0.5), of(0.4), 0.1, concerned=True).concerns == ALL
    assert CHECKS[7].judge(of(0.5), of(0.4), 0.1).concerns == ()


def test_what_does_not_apply_says_so():
    for check in (
        CHECKS[6].judge({}, of(0.5), 0.1),
        CHECKS[7].judge(None, None, 0.1),
        CHECKS[2].judge((0.1,), {}),
        CHECKS[4].judge(of(1), {"twice the steps": of(1)}, 0.1),  # where all are broken no more can be
        CHECKS[6].judge({"EOT": [(1, of(1)), (2, of(1))]}, of(1), 0.1),
    ):
        assert check.status == NOT_APPLICABLE and check.finding


def test_a_noisy_classifier_is_called_unstable(make, tiny_images, monkeypatch):
    monkeypatch.setattr(checks, "CHECKS", {number: CHECKS[number] for number in (6, 7, 10)})
    classifier = BayesClassifier(make("gbz"), particles=1)
    options = dataclasses.replace(QUICK, images=20, checked_images=10, steps=1, redraws=2, eps=(0.1, 0.2))
    verdict = assess(classifier, tiny_images, tiny_images, options)
    found = {check.number: check for check in verdict.checks}
    assert found[10].status == FAIL and found[6].status != NOT_APPLICABLE and found[7].status != NOT_APPLICABLE
    assert 10 in verdict.doubts("eot-mim") and 10 in verdict.doubts("worst case")
    assert "eot-mim, p(y|...) alone" in verdict.success
    for i in range(2):
        assert verdict.worst[i].count >= max(rates[i].count for rates in verdict.success.values())
        assert 0 <= verdict.share_of_draws[i] <= 1 and verdict.broken_in_most[i].total == 20


def test_the_upper_bound_counts_what_is_broken_in_most_further_draws(make, tiny_images, monkeypatch):
    monkeypatch.setattr(checks, "CHECKS", {})
    monkeypatch.setattr(RobustnessRun, "resampled", torch.tensor([[0.75] * 10]))
    options = dataclasses.replace(QUICK, images=10, checked_images=2, steps=1, redraws=2, eps=(1e-6,), brief=True)
    verdict = assess(BayesClassifier(make("gbz"), particles=1), tiny_images, tiny_images, options)
    assert max(rates[0].count for rates in verdict.success.values()) < 10
    assert verdict.broken_in_most[0].count == verdict.worst[0].count == 10


def test_the_worst_is_told_by_draws_that_it_is_not_judged_by(make, tiny_images):
    classifier, few = BayesClassifier(make("gbz"), particles=1), tiny_images.head(30)
    options = dataclasses.replace(QUICK, images=30, redraws=8, eps=(0.2,))
    indices, (x, y) = torch.arange(30), few.batch(slice(None))
    made = {name: images[None] for name, images in (("one", x), ("other", x.flip(3)), ("third", 1 - x))}
    log_joint = {
        name: torch.stack([classifier.for_images(indices, NoiseStream.REDRAWS + draw)(images[0]) for draw in range(12)])
        for name, images in made.items()
    }  # [draws, N, C]
    margins = torch.stack([torch.stack([margin(each, y) for each in rows[8:]]) for rows in log_joint.values()])
    told = [max(range(3), key=lambda a: ((margins[a, :, n] > 0).sum(), margins[a, :, n].mean())) for n in range(30)]
    wrong = torch.stack([(rows[:8].argmax(2) != y).double().mean(0) for rows in log_joint.values()])
    run = run_of(classifier, few, options)
    run.suite = dict.fromkeys(made)
    run._results = {name: {"adversarial": images} for name, images in made.items()}
    found = run.resampled
    torch.testing.assert_close(found[0], wrong[told, indices])
    assert 0 < found.mean() < 1 and not torch.equal(found[0], wrong.amax(0))


@pytest.mark.parametrize(
    ("name", "noise", "brief", "full"),
    [
        ("gbz", "fresh", ["fgsm", "eot-mim"], ["eot-mim, p(y|...) alone"]),
        ("gby", "fresh", ["fgsm", "eot-mim"], []),  # y has no latent parent
        ("dfx", "fresh", ["fgsm", "eot-mim"], []),  # y sees the image itself
        ("gbz", "fixed", ["fgsm", "pgd", "apgd, margin", "uniform noise", "square"], ["pgd, p(y|...) alone"]),
    ],
)
def test_the_suite(make, name, noise, brief, full):
    classifier = BayesClassifier(make(name), particles=2, noise=noise)
    found = list(suite(classifier, RobustnessOptions(brief=True), ()))
    assert found == brief
    assert set(suite(classifier, RobustnessOptions(), ())) == {*found, *full}


def test_what_a_defender_prunes_the_snapshot_sees(make, tiny_images):
    options = dataclasses.replace(QUICK, images=10, checked_images=10, steps=1)
    run = run_of(BayesClassifier(make("gbz"), 5, prune=1.0), tiny_images, options)
    step = run.suite["eot-mim"]
    assert run.on_few("eot-mim", step)["adversarial"].isfinite().all()
    assert run.losses("eot-mim").shape == (step.attack.steps, 10)  # of the first stage


def test_checks_are_at_an_eps_above_0_and_of_the_strongest_attack(make, tiny_images, monkeypatch):
    options = dataclasses.replace(QUICK, images=10, checked_images=10, eps=(0.0, 0.2), steps=1, redraws=2)
    run = run_of(BayesClassifier(make("gbz"), 2), tiny_images, options)
    assert run.middle == 0.2
    run.suite |= suite(run.classifier.replaced(noise="fixed"), options, ())
    for strongest in ("pgd", "eot-mim"):
        strong = {strongest: of(0.5, 10)}
        monkeypatch.setattr(run, "strength", lambda name, *found, strong=strong: strong.get(name, of(0.4, 10)))
        run.__dict__.pop("strengths", None), run.__dict__.pop("budget", None)
        converged, plateaus = (CHECKS[number].judge(*CHECKS[number].measure(run)) for number in (4, 6))
        assert converged.finding.startswith(f"{strongest} succeeds on 50.0% of 10 images at eps 0.2")
        assert plateaus.finding.endswith("the suite's strongest 50.0%")


@pytest.mark.usefixtures("quickly_broken")
def test_an_interrupted_run_goes_on(make, tiny_images, tmp_path, monkeypatch):
    several = (4, 7, 8, 9, 10, 11, 12)  # each kind of measurement: others attack again as check 4 does
    monkeypatch.setattr(checks, "CHECKS", {number: CHECKS[number] for number in several})
    classifier = BayesClassifier(make("gbz"), particles=2)
    options = dataclasses.replace(QUICK, images=6, checked_images=3, steps=1, redraws=2, eps=(0.1,), brief=True)

    class Stops(type(silent)):
        calls = 0

        def images(self, model, done, images):
            self.calls += 1
            if self.calls == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assess(classifier, tiny_images, tiny_images, options, cache=ResultCache(tmp_path), progress=Stops())
    done = sorted(tmp_path.iterdir())
    assert len(done) == 3
    before = [path.stat().st_mtime_ns for path in done]
    resumed = assess(classifier, tiny_images, tiny_images, options, cache=ResultCache(tmp_path))
    assert [path.stat().st_mtime_ns for path in done] == before
    assert encode(resumed) == encode(assess(classifier, tiny_images, tiny_images, options))


def test_transfer_takes_what_was_made_for_the_verdicts_on_its_sources(make, tiny_images):
    victim, *sources = (BayesClassifier(make(name), particles=2) for name in ("gbz", "gfz", "dfx"))
    options = dataclasses.replace(QUICK, images=6, steps=1)
    run = run_of(victim, tiny_images, options, sources=sources)
    step = run.suite["transfer"]
    ours = run.attacked("transfer", step, run.data, options.eps)
    known = len(run.cache._asked_for)
    others = [RobustnessRun(source, run.data, options, (), run.cache, silent) for source in sources]
    made = torch.stack(
        [each.attacked("eot-mim", each.suite["eot-mim"], run.data, options.eps)["adversarial"] for each in others]
    )
    assert len(run.cache._asked_for) == known
    assert (ours["adversarial"] == made).flatten(3).all(3).any(0).all()


def test_damaged_parts_are_made_anew_and_those_of_others_are_left(tmp_path):
    ours, others = ResultCache(tmp_path), ResultCache(tmp_path)
    value = ours.get({"what": 1}, lambda: {"a": torch.ones(3)})["a"]
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-2])
    assert torch.equal(ResultCache(tmp_path).get({"what": 1}, lambda: {"a": torch.ones(3)})["a"], value)
    others.get({"what": 2}, lambda: {"a": torch.zeros(3)})
    ours.remove()
    assert len(list(tmp_path.iterdir())) == 1
    others.remove()
    assert not tmp_path.exists()


@pytest.mark.usefixtures("quickly_broken")
def test_fixed_noise_is_judged_by_fresh_draws(make, tiny_images):
    classifier = BayesClassifier(make("bnn"), particles=2, noise="fixed")
    options = dataclasses.replace(QUICK, images=20, checked_images=10, steps=2, brief=True)
    verdict = assess(classifier, tiny_images, tiny_images, options)
    found = {check.number: check for check in verdict.checks}
    assert found[7].status != NOT_APPLICABLE and found[7].concerns == ALL
    assert found[6].status == NOT_APPLICABLE and found[10].status != NOT_APPLICABLE
    assert len(verdict.share_of_draws) == 3 and [len(shares) for shares in verdict.resampled] == [20] * 3


def test_doubts_stand_beside_the_numbers_they_concern():
    def verdict(number):
        check = CheckResult(number, "", FAIL, "", "", CHECKS[number].concerns)
        kinds = {"fgsm": SINGLE_STEP, "pgd": ITERATIVE, "noise": GRADIENT_FREE}
        none = [Rate(0, 1)] * 3
        success, options = dict.fromkeys(kinds, none), dict.fromkeys(kinds, {})
        return Verdict("gbz", True, "tiny", 1, EPS, Rate(1, 1), success, none, None, None, options, kinds, [check])

    assert [verdict(4).doubts(row) for row in ("fgsm", "pgd", "noise", "worst case")] == [[], [4], [], [4]]
    assert [verdict(8).doubts(row) for row in ("fgsm", "pgd", "noise", "worst case")] == [[8], [8], [], [8]]
    assert [verdict(3).doubts(row) for row in ("fgsm", "pgd", "noise", "worst case")] == [[3]] * 4
    assert [verdict(7).doubts(row) for row in ("fgsm", "pgd", "noise", "worst case")] == [[]] * 4


def test_bad_options_are_named():
    with pytest.raises(InputError, match="a verdict needs an eps above 0"):
        RobustnessOptions(eps=(0.0,))
    with pytest.raises(InputError, match="redraws must be"):
        RobustnessOptions(redraws=0)


def test_a_new_check_is_one_object(monkeypatch, make, tiny_images):
    """Registered, it is on the sheet, beside the rates that it doubts, and in what is printed."""
    monkeypatch.setattr(checks, "CHECKS", {4: CHECKS[4]})
    declared = register(99, "no image is all zeroes", "clean accuracy", (SINGLE_STEP,), doubts_clean=True)

    @declared
    class NoZeroes(Check):
        def measure(self, run):
            return (Rate.of(run.data.pixels.flatten(1).sum(1) == 0),)

        def judge(self, zeroes):
            return self.result(zeroes.count > 0, f"{zeroes.count} of {zeroes.total} images")

    with pytest.raises(InputError, match="there is a check 99 already: no image is all zeroes"):
        declared(NoZeroes)
    parts = []

    class Told(Progress):
        def part(self, name, done, of):
            parts.append((name, done / of))

    options = dataclasses.replace(QUICK, images=8, checked_images=4, steps=1, redraws=1, brief=True, eps=(0.2,))
    classifier, cache = BayesClassifier(make("gbz"), 2), ResultCache()
    verdict = assess(classifier, tiny_images, tiny_images, options, cache=cache, progress=Told())
    assert [check.number for check in verdict.checks] == [4, 99] and verdict.checks[1].status == FAIL
    assert verdict.checks[1].finding == "0 of 8 images"
    assert 99 in verdict.doubts("fgsm") and 99 not in verdict.doubts("eot-mim") and verdict.clean_doubts == [99]
    # The parts of the work: every attack, the further draws, every check.
    names = [*verdict.success, "further draws", "check 4", "check 99"]
    assert [name for name, _ in parts] == [f"{name}, {i} of {len(names)}" for i, name in enumerate(names, 1)]
    shares = [share for _, share in parts]
    assert shares[0] == 0 and shares == sorted(shares) and 0.5 < shares[-1] < 1
    parts.clear()
    assess(classifier, tiny_images, tiny_images, options, cache=cache, progress=Told())
    assert {share for _, share in parts} == {0.0}  # all was there, and says nothing about the time that is left


def test_a_fall_that_may_be_chance_is_named():
    found = CHECKS[2].judge(EPS, {"pgd": rows(0.2, 0.3, 0.29), "fgsm": rows(0.1, 0.1, 0.2)})
    assert found.status == PASS and found.finding == (
        "no significant fall in 2 attacks: pgd falls from 30.0% at eps 0.2 to 29.0% at 0.3, the largest, may be chance"
    )
    assert PASSING_AND_FAILING[2][0].finding == "no fall in 2 attacks"


def test_images_that_no_white_box_attack_breaks_are_told():
    white = {"pgd": of(0.5), "fgsm": of(0.3)}
    found = CHECKS[5].judge(white, {"noise": of(0.2), "square": of(0.6)}, 0.1)
    assert "noise breaks 20.0%; square breaks 60.0% (40 of them by no white-box attack)" in found.finding


def test_the_quick_suite_of_before_fails_the_checks_of_its_budget(monkeypatch):
    """Auto-PGD on snapshots, few steps of all particles, was the strongest attack: a tenth of what there was to be had."""
    monkeypatch.setattr(measurements, "CLIMBING", ("apgd, snapshot",))
    monkeypatch.setattr(RobustnessRun, "middle", 0.1)
    options = RobustnessOptions(images=16, eps=(0.1,), steps=4, redraws=4, checked_images=16)
    classifier, test = pretrained("gbz", particles=3), load_data("fashion-mnist-mini", "test")
    run = run_of(classifier, test, options)
    snapshot = attacks.get("apgd", snapshot=True, steps=4)
    run.suite = {"apgd, snapshot": SuiteEntry(snapshot)}
    monkeypatch.setattr(run, "restarted", dict)
    found = judged(run, 4, 13, 14)
    assert run.strongest == "apgd, snapshot" and [each.status for each in found.values()] == [FAIL] * 3
