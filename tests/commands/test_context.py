"""Where commands find models, and what they say where there are none."""

import pytest

from pyrobayes import InputError, load
from pyrobayes.commands.context import Context
from pyrobayes.options import PRETRAINED, EvaluationOptions
from pyrobayes.training.checkpoint import RESUME


def test_a_folder_of_runs_is_told_from_a_run():
    with pytest.raises(InputError, match=r"no trained model in .*: config.json is missing; take one of .*/gbz"):
        load(PRETRAINED)


def test_models_that_come_with_the_package_are_hinted_at(tmp_path):
    with pytest.raises(InputError, match=r"take the one that comes with the package \(runs=PRETRAINED\)"):
        Context(runs=tmp_path).open(["gbz"], EvaluationOptions())
    with pytest.raises(InputError, match=r"no trained model found under .* \(runs=\.\.\.\), or .* \(runs=PRETRAINED\)"):
        Context(runs=tmp_path).open([], EvaluationOptions())
    with pytest.raises(InputError, match="no trained model in .*cnn: config.json is missing; train one"):
        Context(runs=tmp_path).open(["cnn"], EvaluationOptions())


@pytest.mark.parametrize("folder, where", [("runs", ""), ("other runs", " --runs 'other runs'")])
def test_a_training_that_was_stopped_in_its_first_epoch_is_told(folder, where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("gbz", "dfx"):
        (tmp_path / folder / name).mkdir(parents=True)
    (tmp_path / folder / "gbz" / RESUME).write_text("")
    told = f"no trained model in {folder}/gbz: the training was interrupted before its first epoch ended; "
    told += f"go on with 'pyrobayes train gbz{where} --resume'"
    with pytest.raises(InputError) as refused:
        load(f"{folder}/gbz")
    assert str(refused.value) == told
    for models in ([], ["gbz"]):
        with pytest.raises(InputError) as refused:
            Context("fashion-mnist-mini", runs=folder).open(models, EvaluationOptions())
        assert str(refused.value) == told
    (tmp_path / folder / "dfx" / RESUME).write_text("")
    with pytest.raises(InputError, match="gbz, .*dfx: .* 'pyrobayes train gbz dfx"):
        Context(runs=folder).open([], EvaluationOptions())


def test_results_go_beside_the_models_but_not_into_the_package(tmp_path):
    assert Context(runs=tmp_path).results == tmp_path
    assert str(Context(runs=PRETRAINED).results) == "runs"
    assert Context(runs=PRETRAINED, out=tmp_path).results == tmp_path
