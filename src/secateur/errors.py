"""Every error that a user can act on.

SecateurError                  exit code 1: the tool failed, and says at what
├── InputError                 exit code 2: what was asked cannot be done as asked
│   ├── ConfigError            an unknown key, a value out of range
│   ├── ModelError             a folder that is no model, a family that is not known
│   ├── DataError              text that is missing, empty or too short
│   ├── BudgetError            a budget that no architecture of the space meets
│   └── RunFolderError         a folder that is missing, in use, or belongs to another run
├── ExportError                the exported folder does not behave like the model that was measured
└── ExecutionError             workers cannot be started, or do not see what this process sees

A message is one line: what is wrong, what was got, what was expected, what to do.
"""

import difflib
from collections.abc import Iterable


class SecateurError(Exception):
    """Base of all errors that are raised on purpose."""

    exit_code = 1


class InputError(SecateurError):
    """What was asked cannot be done as asked; nothing was written."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration key or value is wrong."""


class ModelError(InputError):
    """The model cannot be loaded, or its family is not supported."""


class DataError(InputError):
    """The text cannot be read or does not hold enough tokens."""


class BudgetError(InputError):
    """No architecture of the search space meets the budget."""


class RunFolderError(InputError):
    """The run folder is missing, in use by another process, or belongs to another run."""


class ExportError(SecateurError):
    """The exported folder does not give the logits, parameters or generations that were measured."""


class ExecutionError(SecateurError):
    """Workers cannot be started, or do not see what the process sees that gives them work."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `known: a, b, c; did you mean b?`, the tail of every message about an unknown name."""
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"known: {', '.join(names)}{hint}"
