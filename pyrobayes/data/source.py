"""Where images of one's own are, and how they are read. Nothing here imports torch."""

from dataclasses import dataclass
from pathlib import Path

from pyrobayes.errors import InputError, check_fraction, check_integer
from pyrobayes.options import check_fields, option


@dataclass(frozen=True)
class ImageSource:
    """Images of one's own, and how they are read: a folder or an `.npz` file.

    Attributes:
        path: as it was given.
        resize: `HEIGHTxWIDTH`; a number or a pair of them is taken too.
    """

    path: str = ""
    classes: tuple[str, ...] | None = option(
        None,
        "own images: the folders to take as classes, in the order of their numbers, or the names of the classes of an .npz "
        "file, as a comma list  [default: all folders, in alphabetical order]",
        listed=True,
    )
    resize: str | None = option(None, "own images: make all this large, HEIGHTxWIDTH or one number for both")
    test_share: float | None = option(
        None,
        "own images that aren't split: share of every class that becomes test images  [default: 0.2]",
        check=check_fraction,
    )

    def __post_init__(self):
        check_fields(self)
        object.__setattr__(self, "path", str(self.path))
        if isinstance(self.classes, str) or self.classes and not all(isinstance(name, str) for name in self.classes):
            raise InputError(f"classes must be names of classes, texts in a tuple, got {self.classes!r}")
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(self.classes))
            if len(set(self.classes)) < max(2, len(self.classes)):
                raise InputError(f"classes must be two different names or more, got {', '.join(self.classes)}")
        if self.resize is not None:
            object.__setattr__(self, "resize", "{}x{}".format(*parse_size(self.resize)))

    @property
    def name(self) -> str:
        """The name of the data set: that of the folder, or of the file without its ending."""
        path = Path(self.path)
        return (path if path.name not in ("", "..") else path.resolve()).name.removesuffix(".npz") or "images"

    @property
    def reading(self) -> dict:
        """All but the path."""
        return {name: value for name, value in vars(self).items() if name != "path"}

    def or_as(self, other: "ImageSource | None") -> "ImageSource":
        """These images, read as `other` says where this one says nothing."""
        usual = other.reading if other else {}
        return ImageSource(
            self.path, **{name: usual.get(name) if value is None else value for name, value in self.reading.items()}
        )

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) that images become, or None."""
        return parse_size(self.resize) if self.resize else None


def parse_size(given) -> tuple[int, int]:
    """The (height, width) of `64x48`, `64` or a pair; :class:`InputError` if it is none."""
    try:
        sides = str(given).lower().split("x") if isinstance(given, str | int) else list(given)
        height, width = map(int, sides * 2 if len(sides) == 1 else sides)
    except (TypeError, ValueError):
        raise InputError(f"resize must be HEIGHTxWIDTH such as 64x48, or one number for both, got {given!r}") from None
    for side in (height, width):
        check_integer("resize", side, least=1, most=10_000)
    return height, width
