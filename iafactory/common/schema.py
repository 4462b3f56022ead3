"""What the API's description leaves out."""


def doc_excludes() -> list[type]:
    """Base classes that speak to programmers: a view without a docstring must not show theirs to the API's readers."""
    # The settings name this function, and these modules read the settings.
    from drf_spectacular.plumbing import get_lib_doc_excludes

    from .hot import HotView

    return [*get_lib_doc_excludes(), HotView]
