"""Sentences that a reader needs beside a table of results."""

from collections.abc import Sequence

from pyrobayes.evaluation.clean import Evaluation


def caveats(results: Sequence) -> list[str]:
    """How much of the results the noise and approximations change; each sentence once."""
    said = []
    for result in results:
        noise = getattr(result, "flipped_by_resampling", None)
        if noise and not isinstance(result, Evaluation):  # its table has a column for it
            said.append(
                f"{result.model.upper()}: another draw of the noise changes {noise.sentence()} of the predictions on "
                f"{noise.total:,} clean images."
            )
        if result.approximation:
            said.append(
                f"{result.model.upper()}: lower precision or pruning changes {result.approximation.sentence()} of "
                f"{result.approximation.total:,} predictions on clean images, with the same noise."
            )
        if signs := getattr(result, "gradient_signs", None):
            said.append(
                f"{result.model.upper()}: approximations change the sign of the gradient at {100 * signs.share:.2g}% of the "
                "pixels of clean images, with the same noise."
            )
    return list(dict.fromkeys(said))
