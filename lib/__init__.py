"""The small library behind the notebooks of the *Unmute the Patch Tokens* companion."""
