"""The package as users get it: a wheel in a fresh environment."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*command, **options):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_wheel_in_a_fresh_environment(tmp_path):
    source = tmp_path / "source"
    for part in ("pyrobayes", "cli", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / part, source / part)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert sum(name.startswith("pyrobayes/resources/pretrained/") for name in names) == 21
    assert {name for name in top if not name.endswith(".dist-info")} == {"pyrobayes", "pyrobayes_cli"}

    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    # The dependencies are big and those of this environment will do; its editable pyrobayes doesn't come along.
    site = Path(
        run(environment / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    )
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(*pip, "--python", environment / "bin" / "python", "install", "--no-deps", wheel)

    command = environment / "bin" / "pyrobayes"
    assert "Deep Bayes classifiers" in run(command, "--help", cwd=tmp_path)
    assert "pyrobayes, version" in run(command, "--version", cwd=tmp_path)
    code = "import pyrobayes, pyrobayes_cli; print(pyrobayes.__file__); print(len(pyrobayes.load_data('fashion-mnist-mini')))"
    printed = run(environment / "bin" / "python", "-c", code, cwd=tmp_path)
    assert str(environment) in printed and "6000" in printed
    attacked = run(command, "attack", "gbz", "--pretrained", "--images", "5", "--eps-range", "0.1", cwd=tmp_path)
    assert "gbz" in attacked and (tmp_path / "runs" / "attack.json").is_file()
