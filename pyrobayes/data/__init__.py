"""Labelled images, and where they come from."""

from pyrobayes.data.images import Images
from pyrobayes.data.sources import cache_folder, fetch, load_data

__all__ = ["Images", "cache_folder", "fetch", "load_data"]
