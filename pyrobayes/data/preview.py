"""A look at images in a notebook."""

import base64
import html
import io

import numpy as np
import torch
from PIL import Image

from pyrobayes.data.images import Images

EACH, CLASSES = 8, 20  # examples of a class, and classes, that are shown
SIDE = 48  # pixels of an example on the page, at least


def examples(images: Images) -> str:
    """HTML: the first images of every class, one class a row."""
    rows = []
    for number, name in enumerate(images.classes[:CLASSES]):
        first = torch.nonzero(images.labels.cpu() == number)[:EACH, 0]
        strip = f'<img src="data:image/png;base64,{_strip(images, first)}">' if len(first) else "none"
        rows.append(f"<tr><td>{html.escape(name)}</td><td>{strip}</td></tr>")
    more = len(images.classes) - CLASSES
    rows += [f"<tr><td>and {more} more</td><td></td></tr>"] if more > 0 else []
    return f"<div>{html.escape(repr(images))}<table>{''.join(rows)}</table></div>"


def _strip(images: Images, indices: torch.Tensor) -> str:
    """Images side by side, as a PNG in base64."""
    pixels = images.pixels[indices.to(images.labels.device)].cpu().permute(2, 0, 3, 1).flatten(1, 2).numpy()
    channels = pixels.shape[2]
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if channels < 3 else pixels))
    scale = -(-SIDE // picture.height)
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    picture.save(content := io.BytesIO(), "PNG")
    return base64.b64encode(content.getvalue()).decode()
