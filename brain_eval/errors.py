"""The one exception for mistakes a user can make."""


class UserError(Exception):
    """A mistake the user can mend. The message is one line: what, where, what to do.

    The command line prints it to stderr and ends with exit status 2.
    """
