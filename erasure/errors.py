"""The exception tree. The command line prints any of these as one line and exits with code 2.

ErasureError
├── SettingError (also ValueError) a value from the user: which setting, what is valid, what was got
├── ModelError                     a model that cannot be loaded or does not fit
├── RunError                       a run folder's state: another run's, incomplete, unreadable
├── EditError                      an edit that does not fit its model, or changes nothing
├── DivergedError                  a loss or a model's answers that became NaN or infinite
├── DeviceError                    a device whose memory is too small
└── StorageError                   a write that failed
"""


class ErasureError(Exception):
    """Anything a user can put right."""


class SettingError(ErasureError, ValueError):
    """A setting outside its valid values."""


class ModelError(ErasureError):
    """A model that cannot be loaded, or lacks what was asked of it."""


class RunError(ErasureError):
    """A run folder that cannot be used as asked."""


class EditError(ErasureError):
    """An edit that does not fit the model, or is empty."""


class DivergedError(ErasureError):
    """A loss, a gradient or what a model answers is not finite."""


class DeviceError(ErasureError):
    """A device ran out of memory; the run can go on from its last state."""


class StorageError(ErasureError):
    """Writing failed; what stood there before is untouched."""
