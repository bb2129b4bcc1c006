"""Finds the data that ships with Lockgate: topics.yaml and the schemas."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def share(name: str) -> Path:
    """The path of a shipped file or folder: beside the packages in a checkout, inside them when installed.

    Raises FileNotFoundError with the places that were looked at.
    """
    places = [_PACKAGE / "share" / name, _PACKAGE.parent / name]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(f"{name} is in none of {[str(p) for p in places]}: reinstall lockgate")
