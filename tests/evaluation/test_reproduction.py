"""The poster's experiment beside ours."""

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from scipy import stats
from support import invoke

from pyrobayes import InputError, Networks, evaluation, factorizations, options
from pyrobayes.commands import reproduce as reproducing
from pyrobayes.commands import robustness
from pyrobayes.commands.context import Context
from pyrobayes.commands.reproduce import reproduce
from pyrobayes.commands.train import train
from pyrobayes.evaluation import reproduction
from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.reproduction import Spread, student_95
from pyrobayes.evaluation.robustness import checks, known_broken
from pyrobayes.options import RECIPES, Recipe
from pyrobayes.progress import Progress
from pyrobayes.results import figures
from pyrobayes.results.registry import registered
from pyrobayes.training import checkpoint
from pyrobayes_cli.reproduce import show_comparison
from pyrobayes_cli.results import show_worst_cases

EPS = (0.0, 0.1, 0.4)
FEW = {"images": 20, "eps": (0.1,), "steps": 1, "redraws": 2, "checked_images": 4, "brief": True}
TINY = Networks(latent=6, hidden=16, channels=4)
APART = {"gbz": {"latent": 3, "batch_size": 50}}
RECIPE = Recipe("small", "no time", {"epochs": 1}, APART, eps=(0.0, 0.1), attacked=1, verdict=FEW)


def result(model, broken):
    """Of a hundred images, of which so many are broken at each eps."""
    labels = torch.zeros(100, dtype=torch.long)
    log_joint = torch.zeros(len(EPS), 100, 2)
    for rows, count in zip(log_joint, broken):
        rows[:count, 1] = 1
    return AttackResult.of(
        model=model, generative=model.startswith("g"), attack="fgsm", options={"norm": "linf"}, data="fashion-mnist",
        eps=EPS, labels=labels.tolist(), clean_log_joint=log_joint[0], log_joint=log_joint, unmoved=Rate(0, 100),
    )  # fmt: skip


def test_published_figures():
    published = reproduction.published()
    assert set(published) == {"gfz", "gfy", "gbz", "dfx", "dfz", "dbx"}
    assert published["gfz"][0.1] == pytest.approx(0.4507) and published["dbx"][0.0] == pytest.approx(0.2246)
    assert all(set(rates) == {0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5} for rates in published.values())


def test_comparisons_over_seeds():
    seeds = [
        [result("gbz", (10, 30, 50)), result("gby", (10, 30, 50))],
        [result("gbz", (14, 34, 54)), result("gby", (0, 0, 0))],
    ]
    found = reproduction.compare(seeds)
    assert [(each.model, each.eps) for each in found] == [(model, eps) for model in ("gbz", "gby") for eps in EPS]
    assert found[1].published == pytest.approx(0.4041) and found[1].ours.shares == (0.3, 0.34)
    assert found[4].published is None and found[4].difference is None and found[4].worst is None
    one = reproduction.compare(seeds[:1])[1]
    assert one.ours.interval == Rate(30, 100).interval
    gap, half = one.difference
    low, high = Rate(30, 100).interval
    assert gap == pytest.approx(0.3 - 0.4041) and (high - low) / 2 < half < (high - low) / 2 + 0.01


def test_an_interval_over_seeds_is_of_the_images_too():
    low, high = Rate(32, 100).interval
    for shares in ((0.3, 0.34), (0.32, 0.32)):
        half = student_95(2) * abs(shares[1] - shares[0]) / math.sqrt(2) / math.sqrt(2)
        expected = 0.32 - math.hypot(half, 0.32 - low), 0.32 + math.hypot(half, high - 0.32)
        assert Spread(shares, 100).interval == pytest.approx((max(0, expected[0]), expected[1]))
    assert Spread((1.0, 1.0), 100).interval == pytest.approx(Rate(100, 100).interval)


def test_the_worst_case_stands_beside_it_where_it_is_known():
    def verdict(fgsm, worst):
        success, headline = {"fgsm": [Rate(fgsm, 50), Rate(50, 50)]}, [Rate(worst, 50), Rate(50, 50)]
        return SimpleNamespace(model="gbz", eps=(0.1, 0.3), success=success, headline=headline)

    seeds = [[result("gbz", (10, 30, 50))], [result("gbz", (14, 34, 54))]]
    found = reproduction.compare(seeds, [[verdict(15, 20)], [verdict(25, 30)]])
    assert [each.worst for each in found] == [None, Spread((0.4, 0.6), 50), None]
    assert [each.judged for each in found] == [None, Spread((0.3, 0.5), 50), None]


def test_quantiles_of_students_t():
    for seeds in range(2, 40):
        assert reproduction.student_95(seeds) == pytest.approx(stats.t.ppf(0.975, seeds - 1), abs=4e-3)


def test_claims_hold_beyond_the_interval_for_every_seed():
    dbx = result("dbx", (20, 60, 20))
    clear = reproduction.claims([[result("gbz", (20, 30, 90)), dbx]], [5])
    assert [claim.statement for claim in clear] == ["success rate stays below", "degradation is slower"]
    assert all(claim.outcome == "holds" and claim.eps == 0.1 and claim.gap == pytest.approx(0.3) for claim in clear)
    close = reproduction.claims([[result("gbz", (20, 30, 90)), dbx], [result("gbz", (0, 59, 90)), dbx]], [5, 6])
    assert [(claim.seed, claim.outcome) for claim in close] == [(6, "not decided"), (6, "fails")]
    assert close[1].gap == pytest.approx(-0.19)


def test_a_claim_fails_beyond_an_interval_for_all_comparisons():
    def outcome(*gaps):
        said, (_, _, seed, _) = reproduction._outcome([(*each, seed, 0.1) for seed, each in enumerate(gaps)])
        return said, seed

    assert outcome((0.02, 0.01), (0.01, 0.009)) == ("holds", 1)
    assert outcome((-0.012, 0.01)) == ("fails", 0)
    assert outcome((-0.012, 0.01), *[(0.01, 0.01)] * 17) == ("not decided", 0)  # the worst of 18 is so by chance
    assert outcome((-0.016, 0.01), *[(0.01, 0.01)] * 17) == ("fails", 0)
    # One that is surely below isn't hidden behind one that is unsure.
    assert outcome((0.03, 0.01), (-0.01, 0.048), (-0.02, 0.009)) == ("fails", 2)


def test_what_a_reproduction_can_not_do_is_refused_before_anything_is_trained(tmp_path, monkeypatch, mini):
    few = dict.fromkeys(("train", "test"), mini.head(200))  # as many as the quick recipe evaluates
    monkeypatch.setattr(Context, "images", lambda self, name, split: few[split])
    monkeypatch.setattr(reproducing, "train", lambda *given, **named: pytest.fail("trained"))
    with pytest.raises(InputError, match="images must be at most 200.*got 201"):
        reproduce("quick", images=201, context=Context(runs=tmp_path))
    (tmp_path / "one" / "gbz").mkdir(parents=True), (tmp_path / "three" / "seed-0" / "gbz").mkdir(parents=True)
    for folder in ("one", "three/seed-0"):
        (tmp_path / folder / "gbz" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="holds one training of the models, and several asked for"):
        reproduce("quick", seeds=3, context=Context(runs=tmp_path / "one"))
    with pytest.raises(InputError, match="holds several trainings, in seed-N each"):
        reproduce("quick", context=Context(runs=tmp_path / "three"))


def save_dot(figure, path):
    """In place of a figure, which takes seconds to draw, a single pixel."""
    paths = [Path(f"{path}.{kind}") for kind in ("pdf", "png")]
    for each in paths:
        Image.new("L", (1, 1)).save(each)
    return paths


def make_small(patched, images):
    """Two tiny models of tiny images, what is known to be broken trained for an epoch, and figures that aren't drawn."""
    few = dataclasses.replace(images, name="fashion-mnist")
    few = {"train": few.head(200), "test": few.head(60)}
    brief = dataclasses.replace(known_broken.TRAINING, epochs=1)
    patched.setattr(factorizations, "names", lambda comparators=False: ["gbz", "dfx"])
    patched.setitem(options.NETWORKS, "small", TINY)
    patched.setattr(Context, "images", lambda self, name, split: few[split])
    patched.setattr(known_broken, "TRAINING", brief)
    patched.setattr(figures, "save", save_dot)
    for name in ("image_grid", "reconstructions", "adversarial_examples"):
        patched.setattr(figures, name, lambda *given: None)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory, tiny_images):
    """Two seeds, from training to claims: what was found, the folder, and which files progress was told of."""
    folder, told = tmp_path_factory.mktemp("runs"), []

    class Listening(Progress):
        def written(self, what, path):
            told.append((what, path))
            assert path.is_file() and not (path.parent / "evaluation.json").exists()

    with pytest.MonkeyPatch.context() as patched:
        make_small(patched, tiny_images)
        found = reproduce(
            RECIPE, images=60, seeds=2, seed=3, particles=3, context=Context(runs=folder, progress=Listening())
        )
    return SimpleNamespace(found=found, folder=folder, told=told)


@pytest.fixture
def runs(reproduced, monkeypatch, tmp_path, tiny_images):
    """A copy of the folder of both seeds, which the same command may go on with."""
    make_small(monkeypatch, tiny_images)
    return shutil.copytree(reproduced.folder, tmp_path / "runs")


def test_reproduce_from_training_to_claims(reproduced):
    found, folder = reproduced.found, reproduced.folder
    assert found.folders == [folder / "seed-3", folder / "seed-4"]
    assert reproduced.told == [("Figure 1", each / "figure1.png") for each in found.folders]
    drawn = [["samples-gbz.png", "figure1.pdf", "report.html"], ["samples-dfx.png"]]  # DFX has no p(x|...)
    for each in found.folders:
        assert [[(each / name).is_file() for name in names] for names in drawn] == [[True] * 3, [False]]
    assert (folder / "reproduction.pdf").is_file()
    written = json.loads((folder / "reproduction.json").read_text())
    assert written["seeds"] == [3, 4] and len(written["comparisons"]) == 4 and len(written["claims"]) == 2
    assert written["comparisons"][1]["ours"]["shares"] == [each[0].success(1).share for each in found.attacks]
    assert [len(each) for each in found.verdicts] == [2, 2] and written["comparisons"][1]["worst"]["images"] == 20
    configs = [checkpoint.Config.read(folder / "seed-3" / name) for name in ("gbz", "dfx")]
    assert [(each.networks.latent, each.training.batch_size) for each in configs] == [(3, 50), (TINY.latent, 128)]


def cells(printed):
    """The cells of each line of tables on a terminal."""
    return [re.split(" {2,}", line) for line in printed.splitlines()]


def test_the_command_line_shows_comparisons_claims_and_worst_cases(reproduced, capsys):
    found = reproduced.found
    show_comparison(found, reproduced.folder)
    told, ours = cells(capsys.readouterr().out), found.comparisons[1]
    gap, half = 100 * (ours.ours.share - 0.4041), 100 * ours.difference[1]
    shares = [ours.ours.percent(), f"{gap:+.1f} +/- {half:.1f}", ours.judged.percent(), ours.worst.percent()]
    assert told[3] == ["gbz", "0.1", "40.41", *shares]
    for claim in found.claims:
        outcome = {"holds": "holds", "fails": "FAILS"}.get(claim.outcome, "not decided")
        gap = f"{100 * claim.gap:+.1f} +/- {100 * claim.half:.1f} at eps 0.1, seed {claim.seed}"
        assert ["GBZ, DFX", claim.statement, outcome, gap] in told
    show_worst_cases(found.verdicts[0])
    told = cells(capsys.readouterr().out)
    assert told[1] == ["model", "clean accuracy (%)", "FGSM 0.1", "worst case 0.1", "doubted by"]
    for verdict in found.verdicts[0]:
        failed = [check for check in verdict.checks if check.status == checks.FAIL and "iterative" in check.concerns]
        rates = verdict.clean_accuracy.percent(), f"{5 * verdict.success['fgsm'][0].count:.1f}"  # of 20 images
        doubts = ", ".join(str(check.number) for check in failed) or "none"
        assert [verdict.model, *rates, verdict.headline[0].percent(), doubts] in told


def test_the_report_shows_comparisons_claims_and_how_models_were_trained(reproduced):
    said, found = (reproduced.folder / "report.md").read_text(), reproduced.found
    clean, ours = found.comparisons[:2]
    gap, half = zip(clean.difference, ours.difference)
    for row in (
        ("published", *(f"{100 * each.published:.2f}" for each in (clean, ours))),
        ("ours", clean.ours.percent(), ours.ours.percent()),
        ("difference", *(f"{100 * each:+.1f} ± {100 * width:.1f}" for each, width in zip(gap, half))),
        ("FGSM, 20 images", "-", ours.judged.percent()),
        ("worst case, 20 images", "-", ours.worst.percent()),
    ):
        assert f"| GBZ | {' | '.join(row)} |" in said.replace("\\", "")
    assert "| GBZ, DFX |" in said
    assert "Networks small, K = 3, seeds 3 and 4; training: epochs 1; GBZ: latent 3, batch size 50." in said
    assert "[seed 3](seed-3/report.html) and [seed 4](seed-4/report.html)" in said
    assert 'href="seed-3/report.html"' in (reproduced.folder / "report.html").read_text()


def test_seeds_made_apart_say_the_same_together(runs, monkeypatch):
    written = (runs / "reproduction.json").read_text()
    (runs / "reproduction.json").unlink()
    for name in ("attack", "evaluate"):
        monkeypatch.setattr(evaluation, name, lambda *given, **named: pytest.fail("made anew"))
    for n in (3, 4):
        reproduce(RECIPE, images=60, seed=n, particles=3, context=Context(runs=runs / f"seed-{n}"))
    alone = json.loads((runs / "seed-4" / "reproduction.json").read_text())
    assert alone["seeds"] == [4] and {claim["seed"] for claim in alone["claims"]} == {4}
    (runs / "seed-4" / "reproduction.json").unlink()
    reproduce(RECIPE, images=60, seeds=2, seed=3, particles=3, context=Context(runs=runs))
    assert (runs / "reproduction.json").read_text() == written


@pytest.fixture
def made(monkeypatch):
    """Pairs of a measurement and its model, in the order that they are made."""
    made = []

    def count(name, of):
        real = getattr(of, name)

        def call(classifier, *given, **options):
            made.append((name, classifier.factorization.name))
            return real(classifier, *given, **options)

        monkeypatch.setattr(of, name, call)

    count("attack", evaluation), count("evaluate", evaluation), count("assess", robustness)
    return made


def test_an_interrupted_reproduction_goes_on_with_what_is_missing(reproduced, runs, made):
    files = ["reproduction.json", "report.html"] + [
        f"seed-{n}/{name}" for n in (3, 4) for name in (command.file for command in registered().values())
    ]
    before = {name: (runs / name).read_bytes() for name in files if (runs / name).exists()}
    assert len(before) == 8
    attacked = json.loads((runs / "seed-4/attack.json").read_text())
    attacked["results"], attacked["trained"] = attacked["results"][:1], {"gbz": attacked["trained"]["gbz"]}
    del attacked["sha256"]
    (runs / "seed-4/attack.json").write_text(json.dumps(attacked))
    (runs / "seed-4/evaluation.json").write_text("{")
    again = reproduce(RECIPE, images=60, seeds=2, seed=3, particles=3, context=Context(runs=runs))
    assert made == [("attack", "dfx"), ("evaluate", "gbz"), ("evaluate", "dfx")]
    assert again.claims == reproduced.found.claims and again.comparisons == reproduced.found.comparisons
    assert before == {name: (runs / name).read_bytes() for name in before}


def test_other_options_make_anew_what_depends_on_them(runs, made, monkeypatch):
    monkeypatch.setitem(options.RECIPES, "own", RECIPE)
    told = invoke("reproduce", "--images", 50, "--seed", 3, "--particles", 3, "--runs", runs / "seed-3")
    assert made == [("attack", "gbz"), ("attack", "dfx")]
    assert told.exit_code == 0 and told.output.endswith(f"sheets of checks, are in {runs / 'seed-3'}.\n")


def test_a_run_of_another_recipe_is_not_taken_for_its_own(tmp_path, monkeypatch, tiny_images):
    monkeypatch.setitem(options.NETWORKS, "small", TINY)
    named = dataclasses.replace(tiny_images, name="fashion-mnist").head(100)
    monkeypatch.setattr(Context, "images", lambda self, name, split: named)
    changes = {"epochs": 1, "adversarial_eps": 0.1, "adversarial_steps": 1}
    train(["dfx"], networks="small", training_changes=changes, context=Context(runs=tmp_path))
    with pytest.raises(InputError, match="there, adversarial-eps is 0.1, not None, adversarial-steps is 1, not None"):
        reproduce(
            Recipe("small", "no time", training={"epochs": 1}, attacked=100, verdict=FEW),
            context=Context(runs=tmp_path),
        )
    changed = {"epochs": 1, "adversarial_eps": 0.1, "adversarial_steps": 1}
    with pytest.raises(InputError, match="there, .*latent"):  # before GFZ, the first, is trained
        reproduce(
            Recipe("small", "no time", changed, {"dfx": {"latent": 3}}, attacked=100, verdict=FEW),
            context=Context(runs=tmp_path),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["dfx"]


def test_a_recipe_chooses_whom_to_judge_and_on_how_many_threads(tmp_path, monkeypatch, mini):
    made, before = [], torch.get_num_threads()

    def note(name, made_of):
        monkeypatch.setattr(reproducing, name, lambda *given, **named: made.append((name, *made_of(*given))) or [])

    note("train", lambda *given: [torch.get_num_threads()]), note("attack", lambda models, *given: models)
    note("evaluate", lambda models, *given: models), note("run_verdicts", lambda models, *given: [models])
    note("draw_samples", lambda *given: [torch.get_num_threads()])
    monkeypatch.setattr(reproducing.report, "write", lambda folder: None)
    monkeypatch.setattr(factorizations, "names", lambda comparators=False: ["gbz"])
    monkeypatch.setattr(Context, "open", lambda self, models, judging: (models, mini))
    recipe = dataclasses.replace(RECIPES["quick"], judged=("gbz", "dfx"), threads=before + 1)
    reproduce(recipe, context=Context(runs=tmp_path))
    judged = [("train", before + 1), ("attack", "all"), ("evaluate", "all"), ("run_verdicts", ("gbz", "dfx"))]
    assert made == [*judged, ("draw_samples", before + 1)] and torch.get_num_threads() == before
    made.clear(), reproduce(dataclasses.replace(recipe, judged=(), threads=None), context=Context(runs=tmp_path))
    assert made[0] == ("train", before) and made[3] == ("run_verdicts", ["all"])


def test_refusals(tmp_path):
    with pytest.raises(InputError, match="unknown recipe 'postre': did you mean 'poster'"):
        reproduce("postre", context=Context(runs=tmp_path))
    with pytest.raises(InputError, match="seeds must be a whole number of at least 1"):
        reproduce(seeds=0, context=Context(runs=tmp_path))
    refused = invoke("reproduce", "--quick", "--recipe", "poster", "--runs", tmp_path)
    assert refused.exit_code and "--quick is a recipe of its own" in refused.stderr
