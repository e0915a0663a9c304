"""The report: what it says is what the files say, it needs nothing beside it, and a browser shows it."""

import base64
import dataclasses
import io
import json
import re
import shlex
import shutil
from html.parser import HTMLParser

import pytest
import torch
from made_up import CLASSES, EPS, FAILED, attack, certification, detection, evaluation, verdict
from PIL import Image

import pyrobayes.commands  # noqa: F401  (registers the commands that write results)
from pyrobayes import InputError, Networks, RobustnessOptions
from pyrobayes.attacks.attack_options import AttackOptions, DetectionOptions
from pyrobayes.codec import encode
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.robustness.checks import CHECKS
from pyrobayes.evaluation.robustness.verdict import IN_MOST, UPPER_BOUND, Budget
from pyrobayes.files import write_json
from pyrobayes.options import PRETRAINED, CertificationOptions, EvaluationOptions, TrainingOptions
from pyrobayes.results import figures, report
from pyrobayes.results.page import page
from pyrobayes.results.registry import registered
from pyrobayes.tensor_files import digest, read_tensors
from pyrobayes.training.checkpoint import MODEL, Config, versions
from pyrobayes_cli.main import main
from pyrobayes_cli.options import record


def save(folder, command, results, options, **changes):
    """A file of results as the library writes it."""
    config = Config(
        "gbz", Networks(channels=32), (1, 28, 28), CLASSES, "fashion-mnist", "5" * 64, TrainingOptions(seed=3)
    )
    content = {
        "options": dataclasses.asdict(options),
        "data": {"name": "fashion-mnist", "split": "test", "sha256": "7" * 64},
        "versions": versions(),
        "models": list(dict.fromkeys(result.model for result in results)),
        "trained": {
            result.model: {"epochs": 20, "weights": "5" * 64, "config": dataclasses.asdict(config)}
            for result in results
        },
        "results": encode(results),
    }
    write_json(folder / registered()[command].file, content | changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with results of all four commands and their figures; GBZ alone has tests and a verdict."""
    folder = tmp_path_factory.mktemp("made")
    attacks = [attack("gbz"), attack("dfx", wrong=(4, 23, 30))]
    save(folder, "evaluate", [evaluation("gbz"), evaluation("dfx")], EvaluationOptions())
    save(folder, "attack", attacks, AttackOptions(eps=EPS, images=30, seed=1))
    save(folder, "robustness", [verdict("gbz")], RobustnessOptions(eps=(0.1, 0.2), brief=True))
    detections = [detection("gbz"), detection("gbz", evade="kl")]
    save(folder, "detect", detections, DetectionOptions(attack=("pgd",), eps=(0.1, 0.2), evade_weight=(0.5,)))
    figures.save(figures.detection(detections), folder / "detection-gbz")
    figures.save(figures.confusion_matrix(evaluation("gbz"), CLASSES), folder / "confusion-gbz")
    figures.save(figures.image_grid(torch.rand(3, 2, 1, 7, 7), CLASSES, "Samples"), folder / "samples-gbz")
    figures.save(figures.success_rates(attacks), folder / "figure1")
    for each in attacks:
        figures.save(figures.adversarial_examples(each, CLASSES), folder / f"figure2-{each.model}")
    figures.save(figures.robustness(verdict("gbz")), folder / "robustness-gbz")
    figures.save(figures.worst_cases([verdict("gbz"), verdict("gfz")]), folder / "robustness")
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of the folder, to change."""
    return shutil.copytree(made, tmp_path / "results", ignore=shutil.ignore_patterns("report.*"))


class Read(HTMLParser):
    """Tables as rows of cells, and every tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.tags, self.cell = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append(self.cell.replace("\N{NO-BREAK SPACE}", " "))
            self.cell = None

    def handle_data(self, text):
        if self.cell is not None:
            self.cell += text

    def table(self, *words):
        """The one whose header begins with these words."""
        (found,) = [table for table in self.tables if tuple(table[0][: len(words)]) == words]
        return found


def written(folder, **given):
    """The Markdown and the page."""
    return [path.read_text() for path in report.write(folder, **given)]


def saved(folder, command):
    return json.loads((folder / registered()[command].file).read_text())


def shown(rate):
    low, high = rate["interval_95"]
    return f"{100 * rate['share']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def test_every_success_rate_is_that_of_the_files(made):
    text, html = written(made)
    read = Read(html)
    header, *rows = read.table("model", "attack")
    assert header[3:-1] == ["eps 0", "eps 0.1", "eps 0.2", "eps 0.3"]
    for result in saved(made, "attack")["results"]:
        (row,) = [row for row in rows if row[:2] == [result["model"].upper(), "fgsm"]]
        assert row[2] == "30"
        for rate in result["rates"]:
            assert row[header.index(f"eps {rate['eps']:g}")] == shown(rate["success"])
            assert shown(rate["success"]) in text
    (result,) = saved(made, "robustness")["results"]
    header, *rows = read.table("attack", "eps 0.1")
    assert header == ["attack", "eps 0.1", "eps 0.2", "doubted by checks"]
    by_name = {row[0]: row[1:] for row in rows}
    for name, rates in result["success"].items():
        assert by_name[name] == [*map(shown, rates), ", ".join(map(str, result["doubts"][name])) or "none"]
    assert by_name[UPPER_BOUND][:2] == [shown(rate) for rate in result["worst"]]
    assert by_name[IN_MOST][:2] == [shown(rate) for rate in result["broken_in_most"]]
    assert by_name["share of further draws"][:2] == ["60.0", "90.0"]
    assert [row[1] for row in read.table("model", "accuracy (%)")[1:]] == [shown(encode(Rate(49, 60)))] * 2


def test_what_tests_reject_is_told_with_and_without_evasion(made):
    text, html = written(made)
    header, *rows = Read(html).table("model", "test", "attack")
    assert [row[1:4] for row in rows] == [
        ["kl", "pgd", "0.1"], ["kl", "pgd", "0.2"], ["kl", "pgd, evading × 0.5", "0.1"], ["kl", "pgd, evading × 0.5", "0.2"],
    ]  # fmt: skip
    for i, row in enumerate(rows):
        result = saved(made, "detect")["results"][i // 2]
        assert row[4:7] == [shown(result[name][i % 2]) for name in ("success", "detected", "undetected")]
        assert row[7:] == [["0.710", "-"][i % 2], shown(result["accepted_accuracy"][i % 2])]
    assert ["pgd", "GBZ", "norm linf, evade kl, evade weight 0.5"] in Read(html).table("attack", "on")
    assert "Clean test images that are rejected: GBZ kl 5.0% [1.7, 13.7]." in text and "Without meaning" not in text
    assert "](detection-gbz.png)" in text and "](confusion-gbz.png)" in text and "](samples-gbz.png)" in text
    assert "](robustness.png)" not in text  # of several models, and there is one here


def test_tests_without_meaning_are_marked(folder):
    for file in ("evaluation", "attack", "robustness"):
        (folder / f"{file}.json").unlink()
    save(folder, "detect", [detection("dfx", "marginal", meaningful=False)], DetectionOptions(eps=(0.1, 0.2)))
    text, html = written(folder)
    assert Read(html).table("model", "test")[1][1] == "marginal, without meaning" and "Without meaning" in text
    assert text.startswith("# Results on fashion-mnist\n\n60 test images attacked and tested.\n")
    assert "**DFX**: The marginal test rejects 5.0% [1.7, 13.7] of the clean images." in text


def test_the_worst_case_stands_beside_a_single_attack_or_its_lack_is_told(made):
    text, html = written(made)
    rows = Read(html).table("model", "attack")[1:]
    assert [row[:3] for row in rows] == [
        ["GBZ", "fgsm", "30"], ["GBZ", "worst case of 3 attacks", "20"], ["DFX", "fgsm", "30"],
    ]  # fmt: skip
    assert rows[1][3:] == ["-", shown(encode(Rate(11, 20))), shown(encode(Rate(18, 20))), "-", "4, 10"]
    assert rows[0][-1] == "10" and rows[2][-1] == "not checked"
    assert "There is no verdict on DFX: FGSM alone gives an upper bound of the robustness only" in text
    assert "`pyrobayes robustness gbz dfx` tries many" in text
    assert (
        "In the worst case of 3 attacks at eps 0.1 and 0.2, 55.0% [34.2, 74.2] and 90.0% [69.9, 97.2] of 20 images are "
        "misclassified in most further draws of the noise." in text
    )
    assert f"Of {len(CHECKS)} checks, 2 failed (numbers 4 and 10)." in text


@pytest.mark.parametrize("where", ["seed", "weights"])
def test_a_verdict_on_another_training_stands_by_itself(folder, where):
    trained = saved(folder, "robustness")["trained"]
    if where == "seed":
        trained["gbz"]["config"]["training"]["seed"] = 4
    else:
        trained["gbz"]["weights"] = "6" * 64  # of another machine
    save(folder, "robustness", [verdict("gbz")], RobustnessOptions(), trained=trained)
    text, html = written(folder)
    assert "worst case of 3 attacks" not in str(Read(html).table("model", "attack"))
    assert (
        "There is no verdict on GBZ as it was attacked and DFX" in text
        and "These results are of different trainings of it." in text
    )
    assert trained["gbz"]["weights"] in text
    names = [row[0] for row in Read(html).table("model", "joint density")[1:]]
    several = ["GBZ (55555555)", "GBZ (66666666)"] if where == "weights" else ["GBZ (55555555)"] * 2
    assert names == [*several, "DFX"]


@pytest.mark.parametrize("given", [{"particles": 1}, {"noise": "fixed"}])
def test_a_verdict_on_another_classifier_stands_by_itself(folder, given):
    save(folder, "attack", [attack("gbz")], AttackOptions(eps=EPS, **given))
    text, html = written(folder)
    assert "worst case of 3 attacks" not in str(Read(html).table("model", "attack"))
    assert "There is no verdict on GBZ as it was attacked: FGSM alone" in text


def test_what_was_interrupted_is_told(folder):
    save(folder, "attack", [attack("gbz")], AttackOptions(eps=EPS), models=["gbz", "dfx"])
    text, _ = written(folder)
    assert "`pyrobayes attack` wasn't finished: it has no results of DFX." in text
    assert "`pyrobayes robustness` wasn't" not in text


@pytest.mark.parametrize(("data", "flags"), [("fashion-mnist", " --data fashion-mnist"), ("fashion-mnist-mini", "")])
def test_models_of_the_package_are_not_trained_again(folder, data, flags):
    trained = saved(folder, "attack")["trained"]
    for model in trained:
        trained[model]["weights"] = digest(read_tensors(PRETRAINED / model / MODEL)[0], {})
    images = {"name": data, "split": "test", "sha256": "7" * 64}
    save(folder, "attack", [attack("gbz"), attack("dfx")], AttackOptions(eps=EPS), trained=trained, data=images)
    for other in ("evaluate", "detect", "robustness"):
        (folder / registered()[other].file).unlink()
    text, _ = written(folder)
    assert f"\npyrobayes attack gbz dfx --pretrained{flags} --eps-range 0,0.1,0.3\n" in text
    assert f"`pyrobayes robustness gbz dfx --pretrained{flags}` tries many" in text
    assert "pyrobayes train" not in text


def test_an_evaluation_without_changed_predictions_is_damaged(folder):
    path = folder / "evaluation.json"
    found = saved(folder, "evaluate")
    found["results"][0]["changed"] = None
    path.write_text(json.dumps(found))
    with pytest.raises(InputError, match="damaged file"):
        written(folder)


def test_a_part_of_the_data_is_named_in_the_command(folder):
    images = {"name": "fashion-mnist-mini", "split": "test", "sha256": "7" * 64}
    save(folder, "attack", [attack("gbz")], AttackOptions(eps=EPS), data=images)
    assert "\npyrobayes attack gbz --data fashion-mnist-mini --eps-range" in written(folder)[0]


def test_no_command_trains_networks_of_ones_own(folder):
    for path in (folder / f"{name}.json" for name in ("evaluation", "robustness", "detection")):
        path.unlink()
    for encoder, line in ((None, True), ("Mine", False)):
        own = Networks(channels=32, encoder=encoder)
        config = Config("gbz", own, (1, 28, 28), CLASSES, "fashion-mnist", "5" * 64, TrainingOptions())
        trained = {"gbz": {"epochs": 20, "weights": "5" * 64, "config": dataclasses.asdict(config)}}
        save(folder, "attack", [attack("gbz")], AttackOptions(eps=EPS), trained=trained)
        text, _ = written(folder)
        assert ("pyrobayes train gbz" in text) is line and "pyrobayes attack gbz" in text and "--encoder" not in text


def test_formulas_checks_configuration_and_versions_are_there(made):
    text, html = written(made)
    read = Read(html)
    models = {row[0]: row[1:4] for row in read.table("model", "joint density")[1:]}
    assert models["GBZ"] == ["p(x, z, y) = p(z) p(y|z) p(x|z)", "generative", "20"]
    assert models["DFX"] == ["p(x, z, y) = p_D(x) p(z|x) p(y|z, x)", "discriminative", "20"]
    sheet = read.table("what should hold")[1:]
    assert [row[0] for row in sheet] == [f"{n}. holds | {n}" for n in CHECKS]
    assert [row[1].startswith("fail: ") for row in sheet] == [n in FAILED for n in CHECKS]
    assert html.count("<strong>fail</strong>") == 2 and sheet[3][1] == "fail: found 4 < *7*. In doubt: all."
    for line in (
        "pyrobayes train gbz --networks small --seed 3",
        "pyrobayes evaluate gbz dfx",
        "pyrobayes attack gbz dfx --seed 1 --images 30 --eps-range 0,0.1,0.3",
        "pyrobayes robustness gbz --eps-range 0.1,0.2 --brief",
    ):
        assert line in text
    assert "7" * 64 in text and "5" * 64 in text
    assert ["seed", "0", "1", "0", "0"] in read.table("option", "evaluate", "attack")
    assert dict(read.table("of")[1:]) == versions()
    for told in (
        "GBZ gave FGSM no gradient for 2 of 30 images: their robustness",
        "sign of the gradient at 3% of",
        "changes 1.7% [0.3, 8.9]",
    ):
        assert told in text


def test_the_command_lines_give_the_same_options(folder):
    options = {
        "evaluate": EvaluationOptions(particles=3, noise="fixed", prune=5.5, images=7, batch_size=9),
        "attack": AttackOptions(
            attack=("pgd", "cw"), norm="l2", eps=(0.1, 1 / 3), snapshot=True, target=2, step_size=1e-5, compile=True
        ),
        "robustness": RobustnessOptions(negligible=0.01, eps=(0.123456789,), brief=True, images=300),
    }
    found = {"evaluate": evaluation, "attack": attack, "robustness": verdict}
    for command, chosen in options.items():
        save(folder, command, [found[command]("gbz")], chosen)
    lines = {line.split()[1]: shlex.split(line) for line in written(folder)[0].splitlines() if line.startswith("pyro")}
    for command, chosen in options.items():
        given = main.commands[command].make_context(command, lines[command][2:]).params
        assert given["models"] == ("gbz",) and record(type(chosen), given) == chosen


def test_the_page_needs_nothing_else(made):
    text, html = written(made)
    tags = Read(html).tags
    sources = [attributes["src"] for _, attributes in tags if "src" in attributes]
    assert len(sources) == 7 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not [attributes for _, attributes in tags if "href" in attributes]
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in tags}
    assert not re.search(r"https?:|file:|url\(|@import", html)
    assert str(made) not in html + text
    for name in re.findall(r"!\[[^]]*\]\(([^)]*)\)", text):
        assert (made / name).is_file()


def test_the_same_files_give_the_same_bytes_wherever_they_are(made, folder):
    assert written(made) == written(folder) == written(folder)


def test_odd_names_stand_for_themselves(folder):
    name, other = "g|b`z* <script>alert(1)</script> [x](y) &amp; \\", "p|g`d_"
    save(folder, "attack", [attack(name, other)], AttackOptions(eps=EPS))
    figures.save(figures.adversarial_examples(attack("gbz"), CLASSES), folder / "figure2-odd &name (1)")
    _, html = written(folder)
    read = Read(html)
    assert read.table("model", "attack")[1][:2] == [name, other]
    assert "script" not in {tag for tag, _ in read.tags} and "a" not in {tag for tag, _ in read.tags}
    odd = "odd &name (1)"
    save(folder, "attack", [attack(odd)], AttackOptions(eps=EPS))
    text, html = written(folder)
    assert "![Figure 2, odd \\&name (1)](figure2-odd%20%26name%20%281%29.png)" in text
    assert 'alt="Figure 2, odd &amp;name (1)"' in html


def test_several_attacks_have_a_table_each(folder):
    results = [attack("gbz"), attack("gbz", "cw", "l2")]
    save(folder, "attack", results, AttackOptions(attack=("fgsm", "cw"), eps=EPS))
    shutil.copy(folder / "figure2-gbz.png", folder / "figure2-gbz-cw.png")
    text, html = written(folder)
    assert "## FGSM and CW" in text and "### CW, L2" in text and "CW at eps 0.1 (L2) has 36.7%" in text
    first, second = [table for table in Read(html).tables if table[0][:2] == ["model", "attack"]]
    assert [row[1] for row in first[1:]] == ["fgsm", "worst case of 3 attacks"] and [row[1] for row in second[1:]] == [
        "cw"
    ]
    assert "the median L2 distance to what CW found is 0.5 " in text
    assert "figure2-gbz-cw.png" in text and "(figure2-gbz.png)" not in text


def test_what_is_missing_is_left_out(folder):
    for path in (*folder.glob("*.png"), *(folder / f"{name}.json" for name in ("attack", "evaluation", "detection"))):
        path.unlink()
    text, html = written(folder)
    assert text.startswith("# Results on fashion-mnist\n\n20 test images attacked for a verdict on robustness.\n")
    assert "<img" not in html and "## Clean images" not in text and "pyrobayes attack" not in text
    (folder / "robustness.json").unlink()
    with pytest.raises(InputError, match="no results in .* are made by 'pyrobayes evaluate', 'pyrobayes attack', "):
        report.write(folder)


def test_what_is_damaged_is_named(folder):
    whole = (folder / "attack.json").read_text()
    for damaged in ("", whole[: len(whole) // 2], "[]", "{}", '{"results": []}', whole.replace('"count"', '"number"')):
        (folder / "attack.json").write_text(damaged)
        with pytest.raises(InputError, match=r"damaged file .*attack\.json: .*'pyrobayes attack'"):
            report.write(folder)
    (folder / "attack.json").write_text(whole)
    (folder / "figure1.png").write_text("no figure")
    with pytest.raises(
        InputError, match=r"damaged figure .*figure1\.png: it is no image; make it again, or delete it$"
    ):
        report.write(folder)
    (folder / "figure1.png").unlink()
    (folder / "figure1.png").mkdir()
    with pytest.raises(
        InputError, match=r"damaged figure .*figure1\.png: Is a directory; make it again, or delete it$"
    ):
        report.write(folder)
    for file, command in (("attack.json", "attack"), ("reproduction.json", "reproduce")):
        (folder / file).unlink(missing_ok=True)
        (folder / file).mkdir()
        with pytest.raises(InputError, match=f"damaged file .*{file}: it is no file; .*'pyrobayes {command}'"):
            report.write(folder)
        (folder / file).rmdir()
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("changes", [{"options": {}}, {"meaningful": None}, {"eps": []}, {"success": []}, {"auc": [1]}])
def test_damaged_detections_are_refused(changes, folder):
    content = saved(folder, "detect")
    content["results"][0] |= changes
    write_json(folder / "detection.json", content)
    with pytest.raises(InputError, match=r"damaged file .*detection\.json: .*'pyrobayes detect'"):
        report.refuse_damaged(folder, written=("robustness",))
    report.refuse_damaged(folder, written=("detect",))


def test_the_figure_of_several_models_is_shown(folder):
    save(folder, "robustness", [verdict("gbz"), verdict("gfz")], RobustnessOptions(eps=(0.1, 0.2)))
    text, html = written(folder)
    assert "](robustness.png)" in text
    beside = Read(html).table("model", "clean accuracy (%)", "FGSM 0.1")
    assert [row[0] for row in beside[1:]] == ["GBZ", "GFZ"] and beside[1][4] == "55.0 [34.2, 74.2]"


def test_the_budget_stands_under_the_curves_of_its_verdict(folder):
    budget = Budget("eot-mim", 0.1, 5, 20, (10, 20, 40), (0.3, 0.5, 0.6))
    judged = dataclasses.replace(verdict("gbz"), budget=budget)
    figures.save(figures.budget(judged), folder / "robustness-gbz-budget")
    assert "robustness-gbz-budget" not in written(folder)[0]  # the verdict is of an earlier version
    save(folder, "robustness", [judged], RobustnessOptions(eps=(0.1, 0.2)))
    text, html = written(folder)
    assert text.index("](robustness-gbz.png)") < text.index("](robustness-gbz-budget.png)")
    assert "misclassified further draws at eps 0.1 as eot-mim computes more gradients" in text
    assert 'alt="Budget, GBZ"' in html


def test_the_caption_of_a_detection_tells_of_the_panels_that_are_there(folder):
    for evading in (True, False):
        results = [detection("gbz"), *([detection("gbz", evade="kl")] if evading else [])]
        save(folder, "detect", results, DetectionOptions(attack=("pgd",), eps=(0.1, 0.2)))
        assert ("against the weight of the test in an attack" in written(folder)[0]) == evading


def test_certificates_are_told_and_drawn(folder):
    results = [certification("gbz"), certification("gbz", 0.5)]
    save(folder, "certify", results, CertificationOptions(sigma=(0.25, 0.5), draws=1000, images=4))
    figures.save(figures.certificates(results), folder / "certified-gbz")
    text, html = written(folder)
    rows = Read(html).table("model", "sigma")[1:]
    assert [row[:2] for row in rows] == [["GBZ", "0.25"], ["GBZ", "0.5"]] and "](certified-gbz.png)" in text
    assert "Under noise of sigma 0.25, 25.0% [4.6, 69.9] of 4 images are certified within an L2 radius of 0.25." in text
    assert "pyrobayes certify gbz --images 4 --sigma 0.25,0.5 --draws 1000" in text
    assert text.count("Certified accuracy, GBZ") == 2  # title and caption of one figure


@pytest.mark.parametrize("changes", [{"counts": []}, {"selected": [3, 0, 0, 0]}, {"draws": 999}, {"alpha": 0}])
def test_damaged_certificates_are_refused(changes, folder):
    save(folder, "certify", [certification("gbz")], CertificationOptions())
    content = saved(folder, "certify")
    content["results"][0] |= changes
    write_json(folder / "certification.json", content)
    with pytest.raises(InputError, match=r"damaged file .*certification\.json: .*'pyrobayes certify'"):
        report.write(folder)


def test_the_markdown_holds_no_html(folder):
    name, tag = "g<script>alert(1)</script>", re.compile("<[a-z/!]", re.IGNORECASE)
    for command, result, options in (
        ("evaluate", evaluation(name), EvaluationOptions()),
        ("attack", attack(name, "<b>"), AttackOptions(eps=EPS)),
        ("detect", detection(name, test="<img src=x>"), DetectionOptions(eps=(0.1, 0.2))),
        ("certify", certification(name), CertificationOptions()),
        ("robustness", verdict(name), RobustnessOptions(eps=(0.1, 0.2))),
    ):
        save(folder, command, [result], options, data={"name": "<i>", "split": "<p>", "sha256": "<h1>"})
    text, html = written(folder)
    assert not tag.search(text) and "&lt;script&gt;" in text
    assert not {"script", "b", "i", "h1"} & {each for each, _ in Read(html).tags} - {"h1"}
    assert [tag for tag, _ in Read(html).tags].count("h1") == 1


def test_of_several_processes_the_first_writes(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert report.write(folder) == [] and not (folder / "report.md").exists()


def test_wide_figures_are_scaled_down(tmp_path):
    Image.new("RGB", (5000, 50)).save(tmp_path / "wide.png")
    Image.new("RGB", (50, 50)).save(tmp_path / "narrow.png")
    wide, narrow = (page(f"# T\n\n![w]({name}.png)", tmp_path) for name in ("wide", "narrow"))
    for html, width in ((wide, 2000), (narrow, 50)):
        content = base64.b64decode(re.search('base64,([^"]*)', html)[1])
        with Image.open(io.BytesIO(content)) as image:
            assert image.width == width


@pytest.fixture(scope="module")
def browser():
    """Chromium or Chrome as it is installed; nothing is downloaded."""
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"there is no browser: none of {', '.join(names)}")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize(("width", "height"), [(360, 800), (1280, 900)], ids=["phone", "desktop"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(width, height, scheme, made, browser, tmp_path):
    report.write(made)
    shown = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    said, asked = [], []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto((made / "report.html").as_uri())
    shown.screenshot(path=tmp_path / f"report-{width}-{scheme}.png", full_page=True)
    assert said == [] and [url for url in asked if not url.startswith("data:")] == [(made / "report.html").as_uri()]
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
    wide = shown.evaluate("[...document.querySelectorAll('.table')].some(each => each.scrollWidth > each.clientWidth)")
    assert wide == (width == 360)
    sizes = shown.evaluate("[...document.images].map(each => [each.complete, each.naturalWidth, each.clientWidth])")
    assert len(sizes) == 7
    assert all(complete and natural > 0 and 0 < seen <= width for complete, natural, seen in sizes)
    sheet = shown.locator("table", has_text="what should hold")
    sheet.scroll_into_view_if_needed()
    assert sheet.is_visible() and sheet.locator("tr").count() == 1 + len(CHECKS)
    assert sheet.evaluate("each => each.getBoundingClientRect().right <= innerWidth")
    right, wrong = (
        sheet.locator(what).first.evaluate("each => getComputedStyle(each).color") for what in ("td", "strong")
    )
    assert right != wrong
    shown.close()
    assert (tmp_path / f"report-{width}-{scheme}.png").stat().st_size > 10_000
