"""The script that measures on a GPU works: measured is as good as nothing, and on the CPU."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import gpu  # noqa: E402


def test_every_part_of_the_table_is_measured_and_written(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    result = gpu.measure(gpu.Setting("cpu", small=True), out, {"machine": "cpu"})
    assert json.loads(out.read_text()) == result and result.keys() == {
        "machine",
        *(part.__name__ for part in gpu.PARTS),
    }
    assert not [part for part in result.values() if "error" in part], result
    assert result["agreement"]["gbz"]["max_nats"] == 0 and result["precisions"]["gbz, bf16"]["predictions"] <= 1
    assert all(took > 0 for took in result["training_steps"]["gbz, batch 8"].values())


def test_parts_that_fail_or_have_no_time_are_told(tmp_path, capsys):
    def broken(at):
        raise ValueError("no kernel")

    def late(at):
        return {}

    at = gpu.Setting("cpu", small=True)
    assert "no kernel" in gpu.measure(at, tmp_path / "a", {}, [broken])["broken"]["error"]
    assert gpu.measure(at, tmp_path / "b", {}, [late], left=5)["late"] == {"left out": "no time was left"}
