"""Checks what every picture has around it."""

from __future__ import annotations

from aemodels.reports.pictures import Picture


def paper_around(picture: Picture) -> bool:
    """Tells whether nothing touches the edge of a picture, as something cropped would."""
    edges = (picture[0], picture[-1], picture[:, 0], picture[:, -1])
    return all((edge == 255).all() for edge in edges)
