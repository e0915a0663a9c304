"""The pages: the site builds, links lead somewhere, Python runs, command lines are understood."""

import dataclasses
import importlib.util
import json
import math
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import result_tables
import torch
from click.testing import CliRunner
from support import TINY
from torch.distributions import Normal

import pyrobayes
from pyrobayes import attacks, data, factorizations, load_data, options
from pyrobayes.codec import decode
from pyrobayes.commands.context import Context
from pyrobayes.commands.report import read_results
from pyrobayes.evaluation.rates import Rate
from pyrobayes.results import registry
from pyrobayes.tensor_files import digest, read_tensors, save_tensors
from pyrobayes.training import fit as training
from pyrobayes.training.checkpoint import MODEL
from pyrobayes_cli.main import main

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(path for path in (ROOT / "docs").rglob("*.md"))]
PAGES = [path for path in PAGES if "_build" not in path.parts]
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUOTATION = re.compile(r"<!-- quoted from (\S+) -->\n+```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def named(page):
    return str(page.relative_to(ROOT))


@pytest.fixture(params=PAGES, ids=named)
def page(request):
    return request.param


def blocks(page, *languages):
    """The contents of the code blocks in one of these languages."""
    return [content for language, content in FENCE.findall(page.read_text()) if language.strip() in languages]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def write_results():
    return script("write_results")


def anchors(page):
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere(page, write_results):
    text = FENCE.sub("", page.read_text())
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img src="([^"]+)"', text)
    address = write_results.repository() or "no address:"
    for target in targets:
        target = re.sub(rf"^{re.escape(address)}/(blob|raw)/main/", "", target)
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name} links to {target}"
        assert there.is_relative_to(ROOT), f"{page.name} links out of the repository: {target}"
        assert not anchor or anchor in anchors(there), f"{page.name}: no heading for {target}"


def test_links_of_the_readme_lead_into_the_repository_once_its_address_is_known(write_results):
    text = "![a](docs/a.png) and [b](docs/b.md#c), [d](https://d.org/e), [f](#g)"
    assert write_results.absolute(text, "") == text
    written = write_results.absolute(text, "https://h.org/i")
    assert written == (
        "![a](https://h.org/i/raw/main/docs/a.png) and [b](https://h.org/i/blob/main/docs/b.md#c), "
        "[d](https://d.org/e), [f](#g)"
    )
    assert write_results.absolute(written, "https://h.org/i") == written


def test_command_lines_are_understood(page):
    text = page.read_text()
    lines = [line for block in blocks(page, "", "sh", "console", "bash") for line in joined(block)]
    assert text.count("```") % 2 == 0
    for line in lines:
        if command := re.search(r"(?:^|^\$ |-m )(pyrobayes(?:_cli)? .*)", line):
            understood(shlex.split(command[1], comments=True)[1:])


def joined(block):
    """The lines of a block, with those joined that end in a backslash."""
    return block.replace("\\\n", " ").splitlines()


def understood(words):
    """Have click read a command line, without running it."""
    command = main
    while isinstance(command, click.Group):
        assert words and words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))


def test_examples_of_the_commands_are_understood():
    for command in main.commands.values():
        for line in re.findall(r"^ *(pyrobayes .*)$", command.help or "", re.MULTILINE):
            understood(shlex.split(line)[1:])


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Small networks are tiny, training is an epoch of 60 images, and of others the first 5 are taken."""
    load, head, fit = data.load_data, data.Images.head, training.fit

    def load_few(name="fashion-mnist", split="train", data_dir=None):
        assert name == "fashion-mnist-mini"
        return head(load(name, split, data_dir), 60)

    def fit_briefly(factorization, images, given, **more):
        return fit(factorization, images, dataclasses.replace(given, epochs=1), **more)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "load_data", load_few)
    monkeypatch.setattr(data.Images, "head", lambda images, given: head(images, given and min(given, 5)))
    monkeypatch.setattr(training, "fit", fit_briefly)
    monkeypatch.setitem(options.NETWORKS, "small", TINY)
    monkeypatch.setattr(factorizations.base, "_REGISTRY", dict(factorizations.base._REGISTRY))
    monkeypatch.setattr(attacks.base, "_REGISTRY", dict(attacks.base._REGISTRY))
    monkeypatch.setattr(registry, "_commands", dict(registry._commands))


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text()], ids=named)
def test_python_runs(page, small, quickly_broken, param_store):
    run_python(page)


def run_python(page):
    """Run all Python of a page but for what it quotes."""
    quoted = {content for _, content in QUOTATION.findall(page.read_text())}
    namespace = {"__name__": "__main__"}
    for content in blocks(page, "python"):
        if content not in quoted:
            exec(compile(content, str(page), "exec"), namespace)


def test_python_of_the_readme_runs_again_in_the_same_folder(small, param_store):
    for _ in range(2):
        run_python(ROOT / "README.md")


@pytest.mark.parametrize("page", [page for page in PAGES if QUOTATION.search(page.read_text())], ids=named)
def test_quoted_code_is_that_of_the_source(page):
    for source, quotation in QUOTATION.findall(page.read_text()):
        lines = iter((ROOT / source).read_text().splitlines())
        # A quotation may leave out lines, but adds none and changes none.
        stripped = [line.strip() for line in quotation.splitlines() if line.strip()]
        missing = [line for line in stripped if not any(line == other.strip() for other in lines)]
        assert not missing, f"{source} has no {missing[0]!r} there"


def test_an_ablation_is_measured_once_and_goes_into_the_table(tmp_path, monkeypatch, tiny_images):
    ablations, few = script("ablations"), dataclasses.replace(tiny_images, name="fashion-mnist-mini")
    monkeypatch.setattr(ablations, "STEPS", 2)
    monkeypatch.setattr(ablations, "load_data", lambda name: few)
    monkeypatch.setattr(Context, "images", lambda self, name, split: few)
    monkeypatch.setitem(options.NETWORKS, "small", TINY)
    trained = []
    train = ablations.train.train
    monkeypatch.setattr(
        ablations.train, "train", lambda *given, **named: trained.append(named) or train(*given, **named)
    )
    arguments = [str(tmp_path / "runs"), "0", "--data", "fashion-mnist-mini", "--epochs", "1", "--images", "10"]
    settings = ablations.settings_of("gbz", "fashion-mnist-mini", 1, 10)
    elsewhere = [{"model": "gbz", "given": given, "settings": settings} for given in ("--epochs 5", "--no-longer 1")]
    (tmp_path / "ablations.json").write_text(json.dumps(elsewhere))
    first, second = (
        CliRunner().invoke(ablations.main, [*arguments, "--out", str(tmp_path / "ablations.json")]) for _ in range(2)
    )
    assert first.exit_code == second.exit_code == 0, first.output
    other = CliRunner().invoke(ablations.main, [*arguments[:-1], "5", "--out", str(tmp_path / "ablations.json")])
    assert other.exit_code and "was measured with" in other.output
    assert len(trained) == 1
    row, kept = json.loads((tmp_path / "ablations.json").read_text())
    assert kept == elsewhere[0]
    assert row["accuracy"]["total"] == 20 and row["worst"]["count"] >= row["fgsm"]["count"]  # a twelfth is held out
    (tmp_path / "ablations.json").write_text(json.dumps([row]))
    monkeypatch.setattr(result_tables, "RESULTS", tmp_path)
    *_, line = result_tables.ablations("gbz").splitlines()
    assert line.startswith(f"| none | {100 * row['accuracy']['share']:.1f} [")
    (tmp_path / "ablations.json").write_text(json.dumps([row | {"model": "gfz"}]))
    *_, line = result_tables.ablations("others").splitlines()
    assert line.startswith("| `gfz` | ")


def test_kernel_densities_go_into_the_table(tmp_path, monkeypatch, tiny_images):
    density = script("kernel_density")
    few, (x, _) = tiny_images.head(60), tiny_images.batch(slice(60, 70))
    kernel = Normal(few.pixels.flatten(1).float() / 255, math.sqrt(0.5))
    inside = kernel.log_prob(x.flatten(1)[:, None]).sum(2)
    expected = torch.stack([inside[:, few.labels == c].logsumexp(1) for c in range(len(few.classes))], 1)
    found = density.KernelDensity(few, 0.5)(x)
    torch.testing.assert_close(found.log_softmax(1), expected.log_softmax(1), rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(density, "VARIANCES", (0.5,))
    monkeypatch.setattr(density, "STEPS", 2)
    path = tmp_path / "kernel_density.json"
    result = CliRunner().invoke(
        density.main, ["--data", "fashion-mnist-mini", "--images", "10", "--out", str(path)], catch_exceptions=False
    )
    assert result.exit_code == 0
    (row,) = json.loads(path.read_text())
    assert row["accuracy"]["total"] == 500 and row["worst"]["count"] >= row["fgsm"]["count"]
    monkeypatch.setattr(result_tables, "RESULTS", tmp_path)
    *_, line = result_tables.kernel_density().splitlines()
    assert line.startswith(f"| 0.5 | {100 * row['accuracy']['share']:.1f} [")


def test_images_of_independent_attacks_are_judged_as_ours(tmp_path, monkeypatch):
    independent, test = script("independent_attacks"), load_data("fashion-mnist-mini", "test").head(6)
    clean = {"adversarial": test.batch(slice(None))[0][None]}
    monkeypatch.setattr(independent, "MODELS", ("gbz",))
    monkeypatch.setattr(independent, "DRAWS", 2)
    monkeypatch.setattr(independent, "load_data", lambda *name: test)
    monkeypatch.setattr(independent, "MADE", tmp_path)
    monkeypatch.setattr(independent.RobustnessRun, "result", lambda run, name: clean)
    added = {name: torch.full((6, 1, 28, 28), value).half() for name, value in (("first", 0.0), ("second", 1.0))}
    for name, each in added.items():
        save_tensors(tmp_path / f"gbz-{name}.safetensors", {"added": each}, {})
    assert (
        independent.images_of(tmp_path / "gbz-second.safetensors", test) - clean["adversarial"][0]
    ).amax() <= 0.1 + 1e-6
    path = tmp_path / "independent_attacks.json"
    result = CliRunner().invoke(independent.main, ["--images", "6", "--out", str(path)], catch_exceptions=False)
    assert result.exit_code == 0
    ours, first, second = json.loads(path.read_text())
    assert [row["attack"] for row in (ours, first)] == ["eot-mim", "first independent attack"]
    assert ours["share"] == first["share"] and ours["most"] == first["most"] and second["most"]["total"] == 6
    monkeypatch.setattr(result_tables, "RESULTS", tmp_path)
    *_, line = result_tables.independent_attacks().splitlines()
    assert line.startswith(f"| second independent attack | {decode(Rate, second['most']).percent()} / ")


def test_attacks_that_ask_are_measured_once_and_go_into_the_table(tmp_path, monkeypatch, tiny_images, make):
    black_box, path = script("black_box"), tmp_path / "black_box.json"
    victims = {
        "cnn": pyrobayes.BayesClassifier(make("cnn")),
        "gbz": pyrobayes.BayesClassifier(make("gbz"), particles=2),
    }
    few = {"VICTIMS": tuple(victims), "STEPS": 1, "EPOCHS": 1, "FITTED": 40, "DRAWS": 3, "SIMBA": {"SimBA": 1}}
    few["SUBSTITUTES"] = {"distilled, Jacobian": {"images": 16, "rounds": 1}}
    few |= {"opened": lambda model, runs: victims[model], "load_data": lambda name, split: tiny_images}
    for name, value in few.items():
        monkeypatch.setattr(black_box, name, value)
    arguments = [str(tmp_path), "--images", "20", "--victims", "cnn,gbz", "--out", str(path)]
    first, again = (CliRunner().invoke(black_box.main, arguments, catch_exceptions=False) for _ in range(2))
    assert first.output.count(" of 20, ") == 8 and not again.output
    rows = {(row["victim"], row["source"]): row for row in json.loads(path.read_text())}
    unchanged, simba = rows["gbz", "unchanged"], rows["gbz", "SimBA"]
    x, y = tiny_images.head(20).batch(slice(None))
    with torch.no_grad():
        draws = [victims["gbz"].for_images(torch.arange(20), 4 + i)(x).argmax(1) != y for i in range(3)]
    assert unchanged["success"]["count"] == (torch.stack(draws).sum(0) >= 2).sum()
    assert unchanged["share"] == pytest.approx(torch.stack(draws).float().mean().item())
    assert (unchanged["draws"], simba["queries"], rows["cnn", "unchanged"]["draws"]) == (3, 60, 1)
    assert list(simba["rejected"]) == ["marginal", "logit", "kl"] and list(rows["cnn", "gbz"]["rejected"]) == ["kl"]
    for row in rows.values():
        assert all(each["count"] <= row["success"]["count"] for each in row["undetected"].values())
    monkeypatch.setattr(result_tables, "RESULTS", tmp_path)
    header, _, line, *others = result_tables.black_box("success").splitlines()
    assert header == "| success (%) | GBZ | CNN |"
    assert line.startswith(f"| unchanged | {100 * unchanged['success']['share']:.1f} [")
    assert [each.split(" | ")[0] for each in others] == [
        "| GBZ",
        "| CNN",
        "| distilled, Jacobian",
        "| SimBA",
    ]
    assert others[0].startswith("| GBZ | - | ")
    assert result_tables.black_box("rejected").splitlines()[2].count(" / ") == 2


def test_certificates_of_trained_networks_go_into_the_table(tmp_path, monkeypatch, tiny_images):
    certified, few = script("certified_accuracy"), dataclasses.replace(tiny_images, name="fashion-mnist-mini")
    rows = (certified.Row("cnn", 0.25, images=4, draws=20), certified.Row("cnn", 1.0, images=4, draws=20))
    for name, value in (("DATA", "fashion-mnist-mini"), ("EPOCHS", 1), ("SELECTION", 5), ("ROWS", rows)):
        monkeypatch.setattr(certified, name, value)
    monkeypatch.setattr(certified, "load_data", lambda name, split: few)
    monkeypatch.setattr(Context, "images", lambda self, name, split: few)
    monkeypatch.setitem(options.NETWORKS, "small", TINY)
    path = tmp_path / "certified_accuracy.json"
    for _ in range(2):
        arguments = [str(tmp_path / "runs"), "--out", str(path)]
        CliRunner().invoke(certified.main, arguments, catch_exceptions=False)
    first, second = json.loads(path.read_text())
    train, certify = first["commands"]
    assert "--augmentation gaussian --sigma 0.25" in train and "--alpha 0.001 --seed 0" in certify
    assert (first["certification"]["sigma"], second["certification"]["sigma"]) == (0.25, 1)
    assert first["weights"] != second["weights"] and first["certification"]["draws"] == 20
    monkeypatch.setattr(result_tables, "RESULTS", tmp_path)
    *_, line = result_tables.certified_accuracy().splitlines()
    assert line.startswith("| CNN | 1 | 4 | 20 | ") and line.count("[") == 8
    for command in (command for row in certified.ROWS for command in row.commands()):
        name, *given = shlex.split(command)[1:]
        main.commands[name].make_context(name, given)


def test_results_in_the_pages_are_those_of_the_files(write_results):
    for path, text in write_results.pages().items():
        assert path.read_text() == text, f"{named(path)} has other results: python docs/write_results.py"


def test_a_block_ends_where_it_ends_be_it_empty(write_results):
    empty = "<!-- written: {} -->\n\n<!-- end -->"
    text = f"{empty.format('aims')}\n\nbetween\n\n{empty.format('clean')}\n"
    assert [block[1] for block in write_results.BLOCK.finditer(text)] == ["aims", "clean"]
    assert write_results.BLOCK.sub("-", text) == "-\n\nbetween\n\n-\n"


def test_results_are_of_the_models_in_the_package(write_results):
    for found in read_results(write_results.RESULTS).values():
        assert {result.model for result in found.results} <= set(options.MODELS)
        for model, trained in found.trained.items():
            weights, _ = read_tensors(options.PRETRAINED / model / MODEL)
            assert trained.weights == digest(weights, {})


def test_every_command_has_a_page():
    index = (ROOT / "docs/commands/index.md").read_text()
    for name in main.commands:
        assert (ROOT / f"docs/commands/{name}.md").exists() and f"({name}.md)" in index


def test_every_package_is_in_the_reference():
    pages = "\n".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    named = set(" ".join(re.findall(r"^\.\. modules:: (.+)$", pages, re.MULTILINE)).split())
    found = pkgutil.walk_packages(pyrobayes.__path__, "pyrobayes.")
    # The page of a package has all its modules.
    assert named == {"pyrobayes", *(module.name for module in found if module.ispkg)}


def test_figures_are_drawn_of_the_results_as_pdf_and_png():
    names = [name for name, _ in script("draw_figures").drawn()]
    assert {f"graph-{model}" for model in options.MODELS} | {f"robustness-{model}" for model in options.MODELS} <= set(
        names
    )
    shown = "".join(page.read_text() for page in PAGES)
    for path in (ROOT / "docs/figures").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG") and f"figures/{path.name}" in shown
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    missing = [name for name in names if not (ROOT / f"docs/figures/{name}.png").is_file()]
    assert not missing, "python docs/draw_figures.py"


def test_the_site_builds_without_warnings(tmp_path):
    for name in ("sphinx", "myst_parser", "furo", "sphinx_click", "math_core"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install 'pyrobayes[docs]'")
    # The pages with the sources of all modules take half of the time and are left out, and so is the garbage collector.
    code = "import gc, sys; from sphinx.cmd.build import main; gc.disable(); sys.exit(main(sys.argv[1:]))"
    extensions = ",".join(name for name in script("conf").extensions if name != "sphinx.ext.viewcode")
    given = [
        "-W",
        "--keep-going",
        "-n",
        "-q",
        "-b",
        "html",
        "-d",
        tmp_path / "doctrees",
        "-D",
        f"extensions={extensions}",
    ]
    command = [sys.executable, "-c", code, *given, ROOT / "docs", tmp_path / "html"]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "html" / "index.html").exists()
    page = (tmp_path / "html" / "api" / "pyrobayes.html").read_text()
    assert 'id="pyrobayes.BayesClassifier"' in page and 'id="pyrobayes.attack"' in page
    # Formulas are read without a network and without scripts.
    formulas = (tmp_path / "html" / "importance-sampling.html").read_text()
    assert '<math display="block">' in formulas and "$$" not in formulas
    assert not re.search(r"<script[^>]*https?:|<link[^>]*stylesheet[^>]*https?:", formulas)
