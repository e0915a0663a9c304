"""The split of one's own images into training and test images, always the same, and images that are in both."""

import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pyrobayes.errors import InputError

TEST_SHARE = 0.2
ORDER = 20191027  # the seed of the order: with 0, who splits by a permutation of the seed 0 would train on test images


def split_by_share(labels: Tensor, classes: Sequence[str], share: float | None, where: str) -> dict[str, Tensor]:
    """Places of the training and of the test images among the labels [N], shuffled: `share` of every class is for tests."""
    check_classes(labels, classes, where, least=2)
    order, share = shuffled(len(labels)), TEST_SHARE if share is None else share
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for number in range(len(classes)):
        mine = order[labels[order] == number]
        is_test[mine[: min(max(1, round(share * len(mine))), len(mine) - 1)]] = True
    return {"train": order[~is_test[order]], "test": order[is_test[order]]}


def shuffled(images: int) -> Tensor:
    """The order of so many images, so that the first ones are of all classes; always the same."""
    return torch.randperm(images, generator=torch.Generator().manual_seed(ORDER))


def check_classes(labels: Tensor, classes: Sequence[str], where: str, least: int = 1) -> None:
    """Refuse fewer than two classes, and a class with fewer than `least` images."""
    if len(classes) < 2:
        raise InputError(f"{where} has one class, {classes[0]}: a classifier needs two or more")
    counts = labels.bincount(minlength=len(classes)).tolist()
    few = [f"{name} has {count or 'none'}" for name, count in zip(classes, counts) if count < least]
    if few:
        each = "an image" if least == 1 else f"{least} images, to train on and to test on"
        more = f" (and {len(few) - 1} more)" if len(few) > 1 else ""
        raise InputError(
            f"every class needs {each}, but in {where} {few[0]}{more}: add some, or leave it out (classes=...)"
        )


def tell_duplicates(training: Iterable, test: Sequence, where: str) -> None:
    """Warn of test images that are training images too, by digests of both."""
    known = set(training)
    if twice := sum(each in known for each in test):
        told = f"{twice:,} of the {len(test):,} test images of {where} are among the training images too"
        warnings.warn(f"{told}: accuracy on them says nothing about new images", stacklevel=5)
