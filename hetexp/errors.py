"""Errors that a user can fix: each message names the value, what was expected and what to do."""


class HetexpError(Exception):
    """Base of every error that is the input's fault and not the program's."""


class InputError(HetexpError):
    """Tensors or values handed to a public function do not fit."""


class ConfigError(HetexpError):
    """The configuration asks for something that does not exist or does not fit together."""


class DataError(HetexpError):
    """A data set, annotation file or stored result is missing or damaged."""


class CheckpointError(HetexpError):
    """A checkpoint is missing, damaged, or of another architecture."""


class DownloadError(HetexpError):
    """A download could not be completed or verified."""


def some(faults: list[str], most: int = 8) -> str:
    """The first few of many faults, as one text."""
    return "; ".join(faults[:most]) + (f"; and {len(faults) - most} more" if len(faults) > most else "")
