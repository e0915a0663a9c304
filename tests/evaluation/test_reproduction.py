"""The poster's experiment beside ours."""

import dataclasses
import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
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
from pyrobayes.evaluation.robustness import checks
from pyrobayes.options import Recipe
from pyrobayes.progress import Progress
from pyrobayes.results.registry import registered
from pyrobayes.training import checkpoint
from pyrobayes_cli.reproduce import show_comparison
from pyrobayes_cli.results import show_worst_cases

EPS = (0.0, 0.1, 0.4)
FEW = {"images": 20, "eps": (0.1,), "steps": 2, "redraws": 2, "checked_images": 10, "brief": True}
TINY = Networks(latent=6, hidden=16, channels=4)


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
        rows = {"fgsm": [Rate(fgsm, 50), Rate(50, 50)], "worst case": [Rate(worst, 50), Rate(50, 50)]}
        return SimpleNamespace(model="gbz", eps=(0.1, 0.3), rows=rows)

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


@pytest.mark.usefixtures("quickly_broken")
def test_reproduce_from_training_to_claims(tmp_path, monkeypatch, mini, capsys):
    monkeypatch.setattr(factorizations, "names", lambda comparators=False: ["gbz", "dfx"])
    monkeypatch.setitem(options.NETWORKS, "small", TINY)
    named = dataclasses.replace(mini, name="fashion-mnist")
    few = {"train": named.head(200), "test": named.head(60)}
    monkeypatch.setattr(Context, "images", lambda self, name, split: few[split])
    apart = {"gbz": {"latent": 3, "batch_size": 50}}
    recipe = Recipe("small", "no time", {"epochs": 1}, apart, eps=(0.0, 0.1), attacked=1, verdict=FEW)
    told = []

    class Listening(Progress):
        def written(self, what, path):
            told.append((what, path))
            assert path.is_file() and not (path.parent / "evaluation.json").exists()

    found = reproduce(recipe, images=60, seeds=2, seed=3, context=Context(runs=tmp_path, progress=Listening()))
    assert [folder.name for folder in found.folders] == ["seed-3", "seed-4"]
    assert told == [("Figure 1", folder / "figure1.png") for folder in found.folders]
    assert all(
        (folder / "samples-gbz.png").is_file() and (folder / "figure1.pdf").is_file() for folder in found.folders
    )
    assert not (found.folders[0] / "samples-dfx.png").exists() and (tmp_path / "reproduction.pdf").is_file()
    written = json.loads((tmp_path / "reproduction.json").read_text())
    assert written["seeds"] == [3, 4] and len(written["comparisons"]) == 4 and len(written["claims"]) == 2
    assert (tmp_path / "seed-3" / "report.html").is_file() and "GBZ, DFX" in (tmp_path / "report.md").read_text()
    assert written["comparisons"][1]["ours"]["shares"] == [each[0].success(1).share for each in found.attacks]
    show_comparison(found, tmp_path)
    told, ours = capsys.readouterr().out, found.comparisons[1]
    assert [*told.splitlines()[3].split()[:4]] == ["gbz", "0.1", "40.41", f"{100 * ours.ours.share:.1f}"]
    assert f"{100 * (ours.ours.share - 0.4041):+.1f}" in told and ours.worst.percent() in told
    show_worst_cases(found.verdicts[0])
    worst = capsys.readouterr().out
    for verdict in found.verdicts[0]:
        failed = ", ".join(f"{check.number}" for check in verdict.checks if check.status == checks.FAIL) or "none"
        row = next(line for line in worst.splitlines() if line.startswith(verdict.model))
        assert re.split(" {2,}", row)[1:] == [verdict.worst[0].percent(), failed, str(len(verdict.success)), "20"]
    assert [len(each) for each in found.verdicts] == [2, 2] and written["comparisons"][1]["worst"]["images"] == 20
    said = (tmp_path / "report.md").read_text()
    assert all(
        f"| GBZ | {row} |" in said
        for row in ("published", "ours", "difference", "worst case, 20 images", "FGSM, 20 images")
    )
    assert "Networks small, K = 10, seeds 3 and 4; training: epochs 1; GBZ: latent 3, batch size 50." in said
    configs = [checkpoint.Config.read(tmp_path / "seed-3" / name) for name in ("gbz", "dfx")]
    assert [(each.networks.latent, each.training.batch_size) for each in configs] == [(3, 50), (TINY.latent, 128)]
    assert "[seed 3](seed-3/report.html) and [seed 4](seed-4/report.html)" in said
    assert 'href="seed-3/report.html"' in (tmp_path / "report.html").read_text()
    for claim in found.claims:
        outcome = {"holds": "holds", "fails": "FAILS"}.get(claim.outcome, "not decided")
        line = f"gbz against dfx: {claim.statement} (FGSM): {outcome}; closest at eps 0.1, seed "
        assert f"{line}{claim.seed}: {100 * claim.gap:+.1f} points" in told

    # Made apart, they say the same together, and nothing is made anew.
    (tmp_path / "reproduction.json").unlink()
    for n in (3, 4):
        reproduce(recipe, images=60, seed=n, context=Context(runs=tmp_path / f"seed-{n}"))
    alone = json.loads((tmp_path / "seed-4" / "reproduction.json").read_text())
    assert alone["seeds"] == [4] and {claim["seed"] for claim in alone["claims"]} == {4}
    (tmp_path / "seed-4" / "reproduction.json").unlink()
    with monkeypatch.context() as patched:
        for name in ("attack", "evaluate"):
            patched.setattr(evaluation, name, lambda *given, **named: pytest.fail("made anew"))
        reproduce(recipe, images=60, seeds=2, seed=3, context=Context(runs=tmp_path))
    assert json.loads((tmp_path / "reproduction.json").read_text()) == written

    # An interrupted run goes on: nothing is computed again but what is missing, and the results are the same.
    files = ["reproduction.json", "report.html"] + [
        f"seed-{n}/{name}" for n in (3, 4) for name in (command.file for command in registered().values())
    ]
    before = {name: (tmp_path / name).read_bytes() for name in files if (tmp_path / name).exists()}
    assert len(before) == 8
    attacked = json.loads((tmp_path / "seed-4/attack.json").read_text())
    attacked["results"], attacked["trained"] = attacked["results"][:1], {"gbz": attacked["trained"]["gbz"]}
    (tmp_path / "seed-4/attack.json").write_text(json.dumps(attacked))
    (tmp_path / "seed-4/evaluation.json").write_text("{")
    made = []

    def counted(name, of):
        real = getattr(of, name)

        def call(classifier, *given, **options):
            made.append((name, classifier.factorization.name))
            return real(classifier, *given, **options)

        monkeypatch.setattr(of, name, call)

    counted("attack", evaluation), counted("evaluate", evaluation), counted("assess", robustness)
    again = reproduce(recipe, images=60, seeds=2, seed=3, context=Context(runs=tmp_path))
    assert made == [("attack", "dfx"), ("evaluate", "gbz"), ("evaluate", "dfx")]
    assert again.claims == found.claims and again.comparisons == found.comparisons
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
    made.clear()
    reproduce(recipe, images=50, seeds=1, seed=3, context=Context(runs=tmp_path / "seed-3"))
    assert made == [("attack", "gbz"), ("attack", "dfx")]
    monkeypatch.setitem(options.RECIPES, "own", recipe)
    told = invoke("reproduce", "--images", 50, "--seed", 3, "--runs", tmp_path / "seed-3")
    assert told.exit_code == 0 and told.output.endswith(f"sheets of checks, are in {tmp_path / 'seed-3'}.\n")


def test_a_run_of_another_recipe_is_not_taken_for_its_own(tmp_path, monkeypatch, mini):
    monkeypatch.setitem(options.NETWORKS, "small", TINY)
    named = dataclasses.replace(mini, name="fashion-mnist").head(100)
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


def test_refusals(tmp_path):
    with pytest.raises(InputError, match="unknown recipe 'postre': did you mean 'poster'"):
        reproduce("postre", context=Context(runs=tmp_path))
    with pytest.raises(InputError, match="seeds must be a whole number of at least 1"):
        reproduce(seeds=0, context=Context(runs=tmp_path))
    refused = invoke("reproduce", "--quick", "--recipe", "poster", "--runs", tmp_path)
    assert refused.exit_code and "--quick is a recipe of its own" in refused.stderr
