"""One kind of error for people: what is wrong, where, and what to do, in one sentence."""


class InputError(ValueError):
    """Something that the user gave, or that lies on disk, cannot be used.

    The message is one sentence for a person. Command-line entry points print it without a traceback.
    """


class Diverged(InputError):
    """A training whose loss became NaN or infinite; a search goes on without it."""


def unknown_name(kind: str, name: str, known: list[str] | tuple[str, ...]) -> InputError:
    """Return the error for a name that is in no registry, with the closest known name if there is one."""
    from difflib import get_close_matches

    close = get_close_matches(str(name), known, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return InputError(f"Unknown {kind} '{name}'; choose one of: {', '.join(known)}.{hint}")
