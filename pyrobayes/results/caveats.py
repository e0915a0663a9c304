"""What a reader must know beside a table of results."""

from collections.abc import Callable, Sequence

from pyrobayes.evaluation.clean import Evaluation


def caveats(results: Sequence, name: Callable[[str], str] = str.upper) -> list[str]:
    """Sentences on what the noise and approximations change of results of any kind, each said once; `name` writes a model's."""
    said = []
    for result in results:
        if (noise := getattr(result, "flipped_by_resampling", None)) and not isinstance(
            result, Evaluation
        ):  # which shows it
            said.append(
                f"{name(result.model)}: another draw of the noise changes {noise.sentence()} of the predictions on "
                f"{noise.total:,} clean images."
            )
        if result.approximation:
            said.append(
                f"{name(result.model)}: lower precision or pruning changes {result.approximation.sentence()} of "
                f"{result.approximation.total:,} predictions on clean images, with the same noise."
            )
        if signs := getattr(result, "gradient_signs", None):
            said.append(
                f"{name(result.model)}: approximations change the sign of the gradient at {100 * signs.share:.2g}% of the "
                "pixels of clean images, with the same noise."
            )
    return list(dict.fromkeys(said))
