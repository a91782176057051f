"""Sites in the order of the model, and their short names."""


def site_order(site: str) -> tuple[int, int]:
    """Sort key: vision layers, the connector, language layers."""
    place, _, layer = site.partition(".")
    return {"vision": 0, "connector": 1, "embedding": 2, "language": 3}.get(place, 4), int(layer) if layer.isdigit() else 0


def short_site(site: str) -> str:
    """``v3``, ``conn.`` or ``l5``: what an axis has room for."""
    place, _, layer = site.partition(".")
    return f"{place[0]}{layer}" if layer else {"connector": "conn.", "embedding": "emb."}.get(site, site)
