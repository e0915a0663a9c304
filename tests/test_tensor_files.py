"""Files of tensors."""

import torch

from pyrobayes.tensor_files import read_tensors, save_tensors


def test_tensors_survive_saving(tmp_path):
    tied = torch.randn(3)
    tensors = {"a": tied, "b": tied, "half": torch.randn(2).bfloat16(), "none": torch.empty(0), "one": torch.tensor(1)}
    save_tensors(tmp_path / "t", tensors, {"key": "value"})
    read, metadata = read_tensors(tmp_path / "t")
    assert metadata["key"] == "value"
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
