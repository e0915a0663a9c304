"""Does a generative model notice an adversarial image? Does it still when the attack knows of the test?

docs/detection.md explains the three tests. Takes two minutes on two CPU cores. With --quick it takes fewer images.
"""

import dataclasses
import sys

import pyrobayes
from pyrobayes import attacks

quick = "--quick" in sys.argv
images = 10 if quick else 100
train, test = (pyrobayes.load_data("fashion-mnist-mini", split) for split in ("train", "test"))
classifier = pyrobayes.pretrained("gfz", device="cpu")

# Each test is fitted to reject 5% of the training images.
detector = pyrobayes.fit_detector(classifier, train, false_alarms=0.05, images=60 if quick else 1000)
plain = attacks.get("pgd", steps=2 if quick else 20)
attacked = pyrobayes.attack(classifier, test, eps=(0.1,), by=plain, images=images)

for name in ("marginal", "logit", "kl"):
    # Attack model and test at once: the weighted statistic of the test is taken off the loss.
    adaptive = dataclasses.replace(plain, snapshot=True, evade=detector.evading(name), evade_weight=0.1)
    evading = pyrobayes.attack(classifier, test, eps=(0.1,), by=adaptive, images=images)
    for kind, result in (("plain", attacked), ("adaptive", evading)):
        found = pyrobayes.detect(detector, result, name)
        print(
            f"{name:9}{kind:9} false alarms {found.false_alarms.share:4.0%}, "
            f"success {result.success(0).share:4.0%}, of which detected {found.detected[0].share:4.0%}"
        )
