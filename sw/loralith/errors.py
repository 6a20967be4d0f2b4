"""The base of the driver's errors."""


class LoralithError(Exception):
    """An error with a message for the person at the command line: it says what is wrong, with which value, and what mends it.

    The command line prints it as `error: <message>` and exits with status 2. Any other exception is a defect and keeps its traceback.
    """
