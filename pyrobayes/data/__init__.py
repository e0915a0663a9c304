"""Labelled images, and where they come from. Loaded when asked for: `declared` is read without torch."""

import importlib

_PLACES = {
    "ImageSource": "source",
    "Images": "images",
    "cache_folder": "sources",
    "fetch": "sources",
    "load_data": "sources",
}
__all__ = list(_PLACES)


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
