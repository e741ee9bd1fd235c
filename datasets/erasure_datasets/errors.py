"""What is wrong with a user's data, in one line that names the file."""


class DataError(ValueError):
    """A picture, table, folder or data set that cannot be read, or lacks what was asked of it."""


class DataWarning(UserWarning):
    """Data that is used otherwise than it may be meant, in one line."""
